-- Requeue a batch of abandoned entries where they lie: add each to the target, acknowledge it, say what became of it.
-- `run_through` and its like come from bounded.lua; they and the locals that the next lines declare are put before this text
-- (see scripts.py).
--
-- @key stream               the stream
-- @key target               the stream to which they are added; in a cluster it has to lie in the same slot
-- @key window_key           only under a rate limit: its window (see rate.lua)
-- @arg group                the consumer group
-- @arg consumer             who claims what is not requeued
-- @arg min_idle_ms (number) entries that were idle for less are someone else's
-- @arg most_requeues (number) an entry that was requeued so often is not requeued again; 0: no limit
-- @arg run_ms (number)      time for this run
-- @arg most_traces (number) how many trace contexts to return
-- @arg rate_limit (number)  entries a second; 0: any number
-- @arg joined_ids           the entry ids in ascending order, joined by spaces
--
-- Returns  { taken, { id, outcome, id, outcome, … }, { traceparent, tracestate, … }, how many trace contexts more there were,
--          how long (ms) the rate limit grants no more, 0 if it did not end the run }:
--          of the ids the first `taken` were settled; the first list names what was not requeued: `gone` (deleted from the
--          stream while pending), `lost` (someone else took or acknowledged it), or why it is not requeued: those are claimed
--          and stay pending. With `wide` and nothing taken, the first entry has more fields than a script can add.
--          An error `<code> … to add it to the target`: nothing was done to the entry that met it, nor to those behind it; the
--          ones before it are settled.
--
-- XADD and XACK are one step for everybody else and for replicas. Nobody else runs meanwhile, so no claim is needed for what
-- is acknowledged. Needs Redis 7.0: with the shebang a full or read-only server refuses the run before it starts.

local COUNT, ORIGINAL = 'requeue_count', 'original_entry_id'
local LONGEST_COUNT, ENDLESS = 15, 1e15  -- digits that a Lua number holds exactly
local MOST_VALUES = 7900                 -- Lua's unpack fails at about 8,000 values
local PARENT, STATE = 'traceparent', 'tracestate'

local wide -- the entry that a script cannot carry

-- The values of the special fields, the last of two alike winning; nil if there are none, as in most entries.
local function special_values(fields)
  local found
  for i = 1, #fields, 2 do
    local field = fields[i] -- four comparisons of pointers cost less than one look into a table
    if field == COUNT or field == ORIGINAL or field == PARENT or field == STATE then
      found = found or {}
      found[field] = fields[i + 1]
    end
  end
  return found
end

local function count_of(value)
  if not value or not string.match(value, '^%d+$') then return 0 end
  local digits = string.gsub(value, '^0+', '')
  if #digits > LONGEST_COUNT then return ENDLESS end
  return tonumber(digits) or 0
end

local function without_count(fields)
  local rest = {}
  for i = 1, #fields, 2 do
    if fields[i] ~= COUNT then
      rest[#rest + 1] = fields[i]
      rest[#rest + 1] = fields[i + 1]
    end
  end
  return rest
end

local function append(fields, field, value)
  fields[#fields + 1] = field
  fields[#fields + 1] = value
end

-- The fields of the entry that takes its place; nil if it was requeued often enough.
local function requeued(id, fields)
  local special = special_values(fields)
  local count = special and count_of(special[COUNT]) or 0
  if most_requeues > 0 and count >= most_requeues then return nil end
  if special and special[COUNT] then fields = without_count(fields) end
  if not special or not special[ORIGINAL] then append(fields, ORIGINAL, id) end
  append(fields, COUNT, count == 0 and '1' or string.format('%.0f', count + 1)) -- the first trip is the usual one
  if special and special[PARENT] then note_trace(special[PARENT], special[STATE] or '') end
  return fields
end

-- False if the target refuses, which the next entry would meet too, or if a script cannot carry the entry.
local function requeue(id, fields)
  if #fields > MOST_VALUES then
    wide = id
    return false
  end
  local made = requeued(id, fields)
  if not made then
    refuse(id, 'requeued_too_often')
    return true
  end
  local reply = redis.pcall('XADD', target, '*', unpack(made))
  if type(reply) == 'table' and reply.err then
    note_refusal(string.find(reply.err, 'exhausted', 1, true) and 'EXHAUSTED' or code_of(reply), reply, 'do it')
    refused = refused .. ' to add it to the target'
    return false
  end
  finish(id)
  return true
end

local answer = run_through(requeue)
if wide and answer[1] == 0 then name(wide, 'wide') end
return answer
