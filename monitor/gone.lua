-- Take entries off the pending entries list that the stream does not have any more: seen gone and acknowledged in one step.
--
-- Three commands of a client (XRANGE, XPENDING, XACK) would acknowledge entries that are there: a stream that is renamed away
-- before the first and back before the last looks empty in between.
--
-- @key stream                 the stream
-- @arg group                  the consumer group
-- @arg min_idle_ms (number)   entries that were idle for less are someone else's
-- @rest ids_at                the entry ids
-- Returns  for each id: `gone` (it was pending, and the stream does not have it: acknowledged now), `lost` (not pending any
--          more, or someone else took it), `there` (the stream has it: nothing was done)
-- No shebang line, so it runs on Redis 6.0 too; XACK is allowed where memory is full.

local words = {}
for i = ids_at, #ARGV do
  local id = ARGV[i]
  local row = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if not row or (row[3] >= 0 and row[3] < min_idle_ms) then
    words[#words + 1] = 'lost'
  elseif #redis.call('XRANGE', stream, id, id) > 0 then
    words[#words + 1] = 'there'
  else
    redis.call('XACK', stream, group, id)
    words[#words + 1] = 'gone'
  end
end
return words
