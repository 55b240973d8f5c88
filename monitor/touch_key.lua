-- Set a key's expiry to what it is: nothing changes, but WAIT has a write on this connection to confirm. For keys of any type.
--
-- KEYS[1]  the key
-- Returns  1, or 0 if there is no such key any more. Any Redis from 6.0.

local A_DAY_MS = 86400000
local left_ms = redis.call('PTTL', KEYS[1])
if left_ms == -2 then return 0 end
if left_ms >= 0 then
  redis.call('PEXPIRE', KEYS[1], math.max(left_ms, 1))
else
  redis.call('PEXPIRE', KEYS[1], A_DAY_MS)
  redis.call('PERSIST', KEYS[1])
end
return 1
