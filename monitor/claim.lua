-- Claim as many entries as the rate limit grants now, in one step: what gather does instead of a plain XCLAIM.
-- `open_window` and its like come from rate.lua, which is put before this text.
--
-- @key stream               the stream
-- @key window_key           the window (see rate.lua); in a cluster it has to lie in the stream's slot
-- @arg group                the consumer group
-- @arg consumer             who claims
-- @arg min_idle_ms          entries that were idle for less are left alone
-- @arg rate_limit (number)  entries a second
-- @rest ids_at              the entry ids in ascending order
-- Returns  { tried, wait (ms), { lost id, … } }: of the ids the first `tried` were claimed, but for those that are lost, by now
--          another's or acknowledged, which costs nothing; the others were not touched, idle time included, and nothing is
--          granted before `wait` is over. An error: nothing was claimed.
-- No shebang line, so it runs on Redis 6.0 too.

local last_at = #ARGV
local window = open_window(window_key)
if window.err then return window end
local granted = math.min(rate_limit - window.taken, last_at - ids_at + 1)
if granted <= 0 then return { 0, wait_ms(window), {} } end
local failure = charge(window, granted)
if failure then return failure end

local claimed, lost, first = 0, {}, ids_at

-- Claim the ids from `first` to `last`; JUSTID, as the caller has the fields, and the delivery count stays as it is.
local function claim(last)
  local behind = ARGV[last + 1]
  ARGV[last + 1] = 'JUSTID' -- in place: a copy of the ids would cost as much as everything else here
  local reply = redis.pcall('XCLAIM', stream, group, consumer, min_idle_ms, unpack(ARGV, first, last + 1))
  ARGV[last + 1] = behind
  if reply.err then return reply end
  claimed = claimed + #reply
  if #reply == last - first + 1 then return end
  local ours = {}
  for _, id in ipairs(reply) do ours[id] = true end
  for i = first, last do
    if not ours[ARGV[i]] then lost[#lost + 1] = ARGV[i] end
  end
end

while first <= last_at and claimed < granted and not failure do
  local last = math.min(first + granted - claimed - 1, last_at)
  failure = claim(last)
  first = last + 1
end
settle_up(window, granted, claimed, 0)
if failure then return failure end
return { first - ids_at, first <= last_at and wait_ms(window) or 0, lost }
