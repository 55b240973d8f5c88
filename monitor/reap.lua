-- Remove those of the named consumers that have nothing pending and have been idle for long enough.
--
-- Check and removal in one step: XGROUP DELCONSUMER destroys what the consumer has pending, and a consumer that reads
-- between a client's check and its removal loses those entries. Runs on Redis 6.0 too.
-- KEYS[1]  the stream
-- ARGV     group, idle time (ms), then the consumers' names
-- Returns  the names that were removed

local stream, group, idle_ms = KEYS[1], ARGV[1], tonumber(ARGV[2])
local named, removed = {}, {}
for i = 3, #ARGV do named[ARGV[i]] = true end

for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local consumer = {}
  for i = 1, #row, 2 do consumer[row[i]] = row[i + 1] end
  if named[consumer.name] and consumer.pending == 0 and consumer.idle >= idle_ms then
    redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer.name)
    removed[#removed + 1] = consumer.name
  end
end
return removed
