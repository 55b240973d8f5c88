#!lua flags=no-writes,allow-stale
-- May a script do here what settle.lua does? Asked without writing anything.
--
-- KEYS[1]  the stream
-- ARGV     group, then keys as entries are stored under, which lie in different slots unless a hash tag holds them together
-- Returns  OK, or the reason why not: a right that the user lacks, or keys out of a script's reach (cluster slots, the
--          Enterprise cluster policy)
-- Redis 7.0: acl_check_cmd.

local WRITES = 'HSET' -- the commands that write an entry; scripts.py puts others here where the settings call for them
local needed = { { 'XPENDING', KEYS[1], ARGV[1], '-', '+', '1' }, { 'XRANGE', KEYS[1], '-', '+' },
  { 'XACK', KEYS[1], ARGV[1], '0-1' }, { 'XCLAIM', KEYS[1], ARGV[1], 'c', '0', '0-1' } }
for i = 2, #ARGV do
  for name in string.gmatch(WRITES, '%S+') do needed[#needed + 1] = { name, ARGV[i], 'f', 'v' } end
end
for _, command in ipairs(needed) do
  if not redis.acl_check_cmd(unpack(command)) then return 'NOPERM ' .. command[1] end
end
for i = 2, #ARGV do
  -- Without the right to EXISTS this question stays open; settle.lua meets the answer and nothing is lost by it. Asked first, as
  -- servers word a denied command in a script differently (7.0: "can't run this command or subcommand").
  if redis.acl_check_cmd('EXISTS', ARGV[i]) then
    local reply = redis.pcall('EXISTS', ARGV[i])
    if type(reply) == 'table' then return 'CROSSSLOT' end
  end
end
return 'OK'
