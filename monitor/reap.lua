-- Remove those of the named consumers that have nothing pending, until the run's time is up.
--
-- Check and removal in one step: XGROUP DELCONSUMER destroys what the consumer has pending, and a consumer that reads
-- between a client's check and its removal loses those entries. How long it was idle is not asked again: only XINFO CONSUMERS
-- tells, for all of them at once, and removing a consumer that has nothing pending costs it nothing: it is there again at its
-- next read. Nobody else is served meanwhile, so a run is short; the names that it did not get to are sent again.
-- Runs on Redis 6.0 too.
-- @key stream           the stream
-- @arg group
-- @arg run_ms (number)  how long the run may take, by the processor's clock
-- @rest names_at        the consumers' names
-- Returns  { how many names the run got through, { the names that were removed } }

local MOST_WITHOUT_CLOCK = 64 -- Redis 7.0 keeps the clock from scripts
local clock = rawget(_G, 'os') and os.clock
local started, removed, taken = clock and clock(), {}, 0

local function time_is_up()
  if clock then return 1000 * (clock() - started) >= run_ms end
  return taken >= MOST_WITHOUT_CLOCK
end

for i = names_at, #ARGV do
  if #redis.call('XPENDING', stream, group, '-', '+', 1, ARGV[i]) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', stream, group, ARGV[i])
    removed[#removed + 1] = ARGV[i]
  end
  taken = taken + 1
  if time_is_up() then break end
end
return { taken, removed }
