-- Claim as many entries as the rate limit grants now, in one step: what gather does instead of a plain XCLAIM.
-- `open_window` and its like come from rate.lua, which is put before this text.
--
-- KEYS[1]  the stream
-- KEYS[2]  the window (see rate.lua); in a cluster it has to lie in the stream's slot
-- ARGV     group, consumer, min idle (ms), entries a second, then the entry ids in ascending order
-- Returns  { tried, wait (ms), { claimed id, … } }: of the ids the first `tried` were claimed or are out of reach, by now
--          another's or acknowledged, which costs nothing; the others were not touched, idle time included, and nothing is
--          granted before `wait` is over. An error: nothing was claimed.
-- No shebang line, so it runs on Redis 6.0 too.

local FIRST_ID = 5
local window = open_window(KEYS[2])
if window.err then return window end
local granted = math.min(tonumber(ARGV[4]) - window.taken, #ARGV - FIRST_ID + 1)
if granted <= 0 then return { 0, wait_ms(window), {} } end
local failure = charge(window, granted)
if failure then return failure end

local claimed, first = {}, FIRST_ID
while first <= #ARGV and #claimed < granted and not failure do
  local last = math.min(first + granted - #claimed - 1, #ARGV)
  local words = { unpack(ARGV, first, last) }
  words[#words + 1] = 'JUSTID' -- the caller has the fields, and the delivery count stays as it is
  local reply = redis.pcall('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], unpack(words))
  if reply.err then failure = reply end
  for _, id in ipairs(reply) do claimed[#claimed + 1] = id end
  first = last + 1
end
settle_up(window, granted, #claimed, 0)
if failure then return failure end
return { first - FIRST_ID, first <= #ARGV and wait_ms(window) or 0, claimed }
