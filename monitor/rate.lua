-- A limit of entries a second that all janitors of a stream and group share: a sliding window by the server's clock.
-- Put before the scripts that claim (see scripts.py). Any Redis from 6.0.
--
-- The key holds a hash: field = the number of a bucket of BUCKET_MS, value = how many entries were taken in it. What was
-- taken in a bucket counts until COUNTED more have begun, so for 1,020 to 1,040 ms: over a second by at least 20 ms, since
-- TIME stands still while a script runs and an entry is taken a little later than TIME says.

local BUCKET_MS, COUNTED = 20, 51
local LIFETIME_S = 5

-- How much of the window is taken, or the error that the server answered with.
local function open_window(key)
  local time = redis.call('TIME')
  local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  local now = math.floor(now_ms / BUCKET_MS)
  local held = redis.pcall('HGETALL', key)
  if held.err then return held end
  local window = { key = key, now_ms = now_ms, bucket = now, oldest = now, taken = 0, over = {} }
  for i = 1, #held, 2 do
    local bucket, count = tonumber(held[i]), tonumber(held[i + 1])
    if math.abs(now - bucket) > COUNTED then -- ahead of us by as much: the clock was set back
      window.over[#window.over + 1] = held[i]
    else
      window.taken = window.taken + count
      if count > 0 and bucket < window.oldest then window.oldest = bucket end
    end
  end
  return window
end

-- Milliseconds until something of what is taken counts no more.
local function wait_ms(window) return (window.oldest + COUNTED + 1) * BUCKET_MS - window.now_ms end

local function refusal_of(...)
  local reply = redis.pcall(...)
  return type(reply) == 'table' and reply or nil
end

-- Charge `count` entries before the first of them is taken, so that where the server refuses the charge nothing was taken
-- unpaid. Returns the error that it answered with; nothing is charged then.
local function charge(window, count)
  local failure = #window.over > 0 and refusal_of('HDEL', window.key, unpack(window.over))
    or refusal_of('HINCRBY', window.key, window.bucket, count)
  if failure then return failure end
  failure = refusal_of('EXPIRE', window.key, LIFETIME_S)
  if failure then redis.pcall('HINCRBY', window.key, window.bucket, -count) end
  return failure
end

-- Of `charged` entries only `taken` were, the last of them `took_ms` after TIME. Never an error: too much stays charged then.
local function settle_up(window, charged, taken, took_ms)
  local last = math.floor((window.now_ms + took_ms) / BUCKET_MS)
  local kept = last == window.bucket and taken or 0
  if kept ~= charged then redis.pcall('HINCRBY', window.key, window.bucket, kept - charged) end
  if kept ~= taken then redis.pcall('HINCRBY', window.key, last, taken) end
end

