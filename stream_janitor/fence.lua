-- Act on entries of a consumer group only where they are still ours.
--
-- Ours means: XPENDING shows the consumer's name and the delivery count that our own claim left. The name alone does not
-- do, since replicas share one, and a former owner's XCLAIM 0 … JUSTID takes an entry back from whoever has it now. A claim
-- that raises the count (XCLAIM without JUSTID, XREADGROUP, XAUTOCLAIM) makes every older claim show another count.
--
-- KEYS[1]  the stream
-- ARGV     group, consumer, verb, then for each entry:
--            set    id, our delivery count, idle time (ms), delivery count: what XPENDING is to show from now on.
--                   Idle 0 and the same count renew; a greater idle time gives back; a lower count makes an attempt undone.
--            ack    id, our delivery count: acknowledge
--            look   id: which delivery count does our claim have? By the name alone: only right after the claim.
-- Returns  one item for each entry, in order:
--            held     set: done           acked    ack: done           a number   look: the delivery count
--            lost     it is another's, or was claimed anew: nothing was done
--            settled  it is not pending any more: somebody acknowledged it
--            deleted  set: it is gone from the stream. From Redis 7.0 XCLAIM has taken it off the list by that; on 6.2 it
--                     is still pending, until it is acknowledged.
--          An error with the server's code (NOGROUP, NOPERM, …): entries before the one that met it are done.
--
-- Repeating is safe after a lost reply, but for a set that lowers the count: somebody of our name who claims the entry in
-- between has our old count then.
--
-- No shebang line: Redis 6.2 could not compile it, and Redis 7.0 would refuse the whole run while its memory is full,
-- though XCLAIM and XACK are allowed then; a lease would end because a server is full.

local stream, group, consumer, verb = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local FIRST_ENTRY = 4
local VALUES_OF_ENTRY = { set = 4, ack = 2, look = 1 }

-- Before 7.0 XCLAIM … JUSTID does not ask whether the stream still has the entry; those versions have no number here.
local must_look_in_stream = not redis.REDIS_VERSION_NUM

local function is_deleted(id)
  return must_look_in_stream and #redis.call('XRANGE', stream, id, id) == 0
end

local function set(id, idle_ms, deliveries)
  if is_deleted(id) then return 'deleted' end
  local claimed = redis.call('XCLAIM', stream, group, consumer, 0, id, 'IDLE', idle_ms, 'RETRYCOUNT', deliveries, 'JUSTID')
  return #claimed == 1 and 'held' or 'deleted'
end

local function act(at)
  local id = ARGV[at]
  local row = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if not row then return 'settled' end
  if row[2] ~= consumer then return 'lost' end
  if verb == 'look' then return row[4] end
  if row[4] ~= tonumber(ARGV[at + 1]) then return 'lost' end
  if verb == 'set' then return set(id, ARGV[at + 2], ARGV[at + 3]) end
  redis.call('XACK', stream, group, id)
  return 'acked'
end

local states = {}
for at = FIRST_ENTRY, #ARGV, VALUES_OF_ENTRY[verb] do states[#states + 1] = act(at) end
return states
