-- Claim entries for an attempt of the user's code: the delivery count goes up before the code runs, so that an attempt that
-- takes the process down counts too. `open_window` and its like come from rate.lua, which is put before this text.
--
-- @key stream                  the stream
-- @key window_key              the window of the rate limit (see rate.lua); the stream again where there is none
-- @arg group                   the consumer group
-- @arg consumer                who claims
-- @arg rate_limit (number)     entries a second; 0: any number
-- @arg repeated_ms (number)    how long ago the first try of this claim was sent, if its reply was lost; else -1
-- @rest entries_at             for each entry, ascending: id, the idle time (ms) that it has to have, the delivery count that
--                              it was found with
-- Returns  { now (ms), wait (ms), { … } }: for each entry that was tried, the delivery count of our claim, or `gone` (the stream
--          does not have it: off the list now) or `lost` (too young, someone else's, or acknowledged). The rest waits for the
--          rate limit, which grants nothing before `wait` is over. An error: none was claimed that the limit did not grant.
-- No shebang line, so it runs on Redis 6.2 too, and where memory is full.

local VALUES, FATAL = 3, 2 ^ 53
-- From 7.0 (where there is a number) XCLAIM itself takes off the list what the stream does not have.
local must_look_in_stream = not redis.REDIS_VERSION_NUM
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local count = (#ARGV - entries_at + 1) / VALUES
local window, granted, charged = nil, count, 0
if rate_limit > 0 then
  window = open_window(window_key)
  if window.err then return window end
  granted = math.min(rate_limit - window.taken, count)
  if granted <= 0 then return { now_ms, wait_ms(window), {} } end
  local failure = charge(window, granted)
  if failure then return failure end
  charged = granted
end

-- The claim was made by the first try, whose reply was lost: nobody else's raised the count by one in so short a time.
local function is_ours_already(row, found_with)
  return repeated_ms >= 0 and row[2] == consumer and row[4] == found_with + 1 and row[3] >= 0 and row[3] <= repeated_ms
end

local function claim(id, min_idle_ms, found_with)
  local row = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if not row or row[4] < 0 or row[4] >= FATAL then return 'lost' end
  if is_ours_already(row, found_with) then return row[4] end
  if row[3] >= 0 and row[3] < min_idle_ms then return 'lost' end
  if must_look_in_stream and #redis.call('XRANGE', stream, id, id) == 0 then
    redis.call('XACK', stream, group, id)
    return 'gone'
  end
  local claimed = redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', row[4] + 1, 'JUSTID')
  return #claimed == 1 and row[4] + 1 or 'gone'
end

local answers, claimed = {}, 0
for at = entries_at, #ARGV, VALUES do
  if claimed >= granted then break end
  local answer = claim(ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]))
  if type(answer) == 'number' then claimed = claimed + 1 end
  answers[#answers + 1] = answer
end
if window then settle_up(window, charged, claimed, 0) end
return { now_ms, window and #answers < count and wait_ms(window) or 0, answers }
