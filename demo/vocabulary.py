"""What made-up tweets are made of: the words that the article's queries look for, among those they do not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Saying:
    lang: str
    text: str


SAYINGS = tuple(
    Saying(lang, text)
    for lang, texts in {
        "en": (
            "hello from the night train",
            "hello, is anybody awake?",
            "Hello world! Day 12 of learning to code",
            "what a wonderful world this is",
            "the whole world is watching this match",
            "three cups of coffee and still tired",
            "monsoon clouds over the harbour this morning",
            "can't believe it's only Tuesday",
            "new blog post: streams, groups & what they leave behind",
            "washed my hands, wore my mask, missed my bus",
            "my grandmother's recipe -- it needs more ginger",
            'they said "it scales"; it did not',
        ),
        "es": ("¡Hola mundo! Empezamos de nuevo", "mañana será otro día", "¿alguien más sin luz?"),
        "pt": ("bom dia, gente", "saudade do mar"),
        "fr": ("bonjour à tous, même aux lève-tard", "ça y est, il neige"),
        "de": ("Grüße aus dem Zug, wie immer verspätet", "Frühstück für Fortgeschrittene"),
        "ru": ("Привет, мир", "опять понедельник"),
        "el": ("Καλημέρα κόσμε",),
        "ar": ("صباح الخير يا عالم", "قهوة ثم كل شيء"),
        "he": ("שלום עולם",),
        "hi": ("नमस्ते दुनिया", "आज बहुत गर्मी है"),
        "ta": ("வணக்கம் உலகம்",),
        "ja": ("おはようございます、世界", "終電を逃した"),
        "zh": ("你好，世界", "今天吃什么"),
        "ko": ("안녕, 세상아",),
        "th": ("สวัสดีชาวโลก",),
    }.items()
    for text in texts
)

USERS = (
    ("john_okafor", "Lagos, Nigeria"),
    ("joanna_m", "Mumbai, India"),
    ("josh_builds", "Bengaluru, India"),
    ("jomo7", "Nairobi, Kenya"),
    ("jorge_luis", "Ciudad de México"),
    ("priya_s", "Delhi, India"),
    ("ravi_t", "चेन्नई, India 🇮🇳"),
    ("meera_k", "Kochi, Kerala, India"),
    ("yuki_1998", "東京都"),
    ("wang_wei", "上海"),
    ("minjun", "서울"),
    ("olga_k", "Москва"),
    ("layla_h", "القاهرة"),
    ("noa_b", "תל אביב"),
    ("eleni_p", "Αθήνα"),
    ("maria_g", "São Paulo 🌴"),
    ("chloe_b", "Montréal, Québec"),
    ("sven_a", "Malmö, Sverige"),
    ("amara_d", "somewhere else"),
    ("quiet_one", ""),
)

TAGS = (
    "covid19",
    "COVID",
    "covidvaccine",
    "MedTwitter",
    "MedEd",
    "Medicine",
    "Python",
    "Redis",
    "monsoon",
    "cricket",
    "foodie",
    "おはよう",
    "доброе_утро",
    "météo",
)

EMOJI = ("😀", "🎉", "🔥", "❤️", "👩‍🚀", "👍🏽", "🏳️‍🌈", "☕", "🌧️", "🇮🇳", "🚆", "✨")
