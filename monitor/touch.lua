-- Write a hash's first field as it is: nothing changes, but WAIT has a write on this connection to confirm.
--
-- KEYS[1]  the hash
-- Returns  1, or 0 if there is no such hash any more. Any Redis from 6.0.

local cursor, pair = '0', {}
repeat
  cursor, pair = unpack(redis.call('HSCAN', KEYS[1], cursor, 'COUNT', 1))
until #pair > 0 or cursor == '0'
if #pair == 0 then return 0 end
redis.call('HSET', KEYS[1], pair[1], pair[2])
return 1
