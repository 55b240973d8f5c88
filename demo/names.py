"""What the pipeline's programs call things in Redis; the names of the original article."""

from __future__ import annotations

STREAM = "tweets_stream"
GROUP = "redisearch_app_group"
JANITOR = "janitor"
HASH_PREFIX = "tweet:"
INDEX = "tweets-index"
PROCESSORS = ("processor-1", "processor-2", "processor-3")
