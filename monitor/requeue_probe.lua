#!lua flags=no-writes,allow-stale
-- May a script do here what requeue.lua does? Asked without writing anything.
--
-- KEYS     the stream, the target, and under a rate limit its window: in a cluster they have to lie in one slot
-- ARGV     group
-- Returns  OK, or the right that the user lacks; the server itself answers CROSSSLOT where keys are out of a script's reach
-- Redis 7.0: acl_check_cmd.

local needed = { { 'XPENDING', KEYS[1], ARGV[1], '-', '+', '1' }, { 'XRANGE', KEYS[1], '-', '+' },
  { 'XACK', KEYS[1], ARGV[1], '0-1' }, { 'XCLAIM', KEYS[1], ARGV[1], 'c', '0', '0-1' },
  { 'XADD', KEYS[2], '*', 'f', 'v' } }
for _, command in ipairs(needed) do
  if not redis.acl_check_cmd(unpack(command)) then return 'NOPERM ' .. command[1] end
end
return 'OK'
