-- Settle a batch of abandoned entries where they lie: store each in its hash, acknowledge it, say what became of it.
-- `store` comes from store.lua, `open_window` and its like from rate.lua, `identity` and its like from entry_key.lua; they and
-- the locals that the next lines declare are put before this text (see scripts.py).
--
-- @key stream               the stream
-- @key window_key           only under a rate limit: its window (see rate.lua)
-- @arg group                the consumer group
-- @arg consumer             who claims what cannot be stored
-- @arg min_idle_ms (number) entries that were idle for less are someone else's
-- @arg hash_prefix          an entry is stored under this and its id
-- @arg on_conflict          overwrite | newer | keep
-- @arg run_ms (number)      time for this run
-- @arg most_traces (number) how many trace contexts to return
-- @arg keeps_trace_fields (flag) whether the fields that hold them are stored too
-- @arg rate_limit (number)  entries a second; 0: any number
-- @arg returns_keys (flag)  whether the keys of the stored hashes are returned
-- @arg id_fields            the names of the id fields, joined by commas
-- @arg joined_ids           the entry ids in ascending order, joined by spaces: one argument costs the client less than hundreds
--
-- Returns  { taken, { id, outcome, id, outcome, … }, { traceparent, tracestate, … }, how many trace contexts more there were,
--          how long (ms) the rate limit grants no more, 0 if it did not end the run, { key of a stored hash, … } }:
--          of the ids the first `taken` were claimed or settled; the first list names what was not stored: `kept`, `superseded`
--          (acknowledged all the same), `gone` (deleted from the stream while pending), `lost` (someone else took or
--          acknowledged it), or why the entry is invalid; invalid entries are claimed and stay pending.
--          An error with the server's code: nothing was done to the entry that met it, nor to those behind it; the ones
--          before it are settled.
--
-- No XCLAIM for what is stored: nobody else runs while a script does, so the idle time that XPENDING reads here holds until
-- the XACK below, and an entry that is acknowledged needs no owner. Reading runs of entries with XRANGE costs the server a
-- third of what XCLAIM does. Needs Redis 7.0: with the shebang a full or read-only server refuses the run before it starts.

local run_s = run_ms / 1000
local ids = {}
for id in string.gmatch(joined_ids, '%S+') do ids[#ids + 1] = id end

-- Entries are read a few at a time, since each may be of 1 MB (1.3 ms to read), until CHUNK of them are there or they made
-- Lua's memory grow by HEAVY_KB; then all are written, which an indexing server does faster in a row; then the clock is looked at.
local CHUNK, LARGEST_SLICE, HEAVY_KB = 32, 8, 128
local LONGEST_TRACEPARENT, LONGEST_TRACESTATE = 64, 512 -- W3C: 55 in version 00, and 512; longer ones stay here
-- The server's own refusals: not the entry's fault, and the next entry would meet them as well.
local SERVER_REFUSES = { OOM = true, MISCONF = true, NOREPLICAS = true, READONLY = true, NOPERM = true, CROSSSLOT = true,
  MOVED = true, ASK = true, CLUSTERDOWN = true, TRYAGAIN = true, LOADING = true, BUSY = true, MASTERDOWN = true, NOCOMMAND = true }

-- What `command` answers for the ids from `first` to `last`, in their order, false for an id that it does not have:
-- one call where the ids lie side by side, one more for each that others lie between.
local function look_up(command, first, last)
  local count = last - first + 1
  local rows = command(ids[first], ids[last], count)
  local side_by_side = #rows == count
  for i = 1, #rows do side_by_side = side_by_side and rows[i][1] == ids[first + i - 1] end
  if side_by_side then return rows end
  local by_id = {}
  for _, row in ipairs(rows) do by_id[row[1]] = row end
  rows = {}
  for i = 1, count do
    local id = ids[first + i - 1]
    rows[i] = by_id[id] or command(id, id, 1)[1] or false
  end
  return rows
end

local function pending_rows(from, to, count) return redis.call('XPENDING', stream, group, from, to, count) end
local function entries(from, to, count) return redis.call('XRANGE', stream, from, to, 'COUNT', count) end

local TRACE = 0
roles.traceparent, roles.tracestate = TRACE, TRACE
use_id_fields(id_fields) -- after the two: one of them that is an id field belongs to the data

local function code_of(failure)
  if string.find(failure.err, 'access a non local key', 1, true) or string.find(failure.err, 'the same slot', 1, true) then
    return 'CROSSSLOT'
  end
  if string.find(failure.err, 'cluster is down', 1, true) or string.find(failure.err, 'slot not served', 1, true) then
    return 'CLUSTERDOWN'
  end
  if string.find(failure.err, 'ACL failure', 1, true) then return 'NOPERM' end
  if string.find(failure.err, 'nknown Redis command', 1, true) then return 'NOCOMMAND' end -- renamed or disabled
  return string.match(failure.err, '^-?(%u+)') or 'ERR'
end

local done, named = {}, {}
local taken, refusal, refused_what = 0, nil, 'do the write'
local claimed, allowed = 0, #ids -- what the rate limit counts: entries that were stored, kept, superseded or at fault

local function acknowledge()
  for first = 1, #done, 1000 do
    redis.call('XACK', stream, group, unpack(done, first, math.min(first + 999, #done)))
  end
end

local function name(id, outcome)
  named[#named + 1] = id
  named[#named + 1] = outcome
end

-- Kept out of the others' and our own reach for another min idle; JUSTID leaves the delivery count as it was.
local function refuse(id, reason)
  redis.call('XCLAIM', stream, group, consumer, 0, id, 'JUSTID')
  claimed = claimed + 1
  name(id, reason)
end

local traces, more_traces, stored_keys = {}, 0, {}

local function note_trace(parent, state)
  if parent == '' or #parent > LONGEST_TRACEPARENT or most_traces == 0 then return end
  if #traces == 2 * most_traces then
    more_traces = more_traces + 1
    return
  end
  traces[#traces + 1] = parent
  traces[#traces + 1] = #state <= LONGEST_TRACESTATE and state or ''
end

-- The fields without those of the trace context, which is noted.
local function split_from_trace(fields)
  local rest, parent, state = {}, '', ''
  for i = 1, #fields, 2 do
    if fields[i] == 'traceparent' then
      parent = fields[i + 1]
    elseif fields[i] == 'tracestate' then
      state = fields[i + 1]
    else
      rest[#rest + 1] = fields[i]
      rest[#rest + 1] = fields[i + 1]
    end
  end
  note_trace(parent, state)
  return rest
end

-- False if the server refuses, and would refuse the next one too.
local function settle(id, fields)
  if read_names(fields, TRACE) then
    local rest = split_from_trace(fields)
    if not keeps_trace_fields then fields = rest end
  end
  local key_id, fault = identity()
  if fault then
    refuse(id, fault)
    return true
  end
  local outcome = store(hash_prefix .. key_id, id, fields, on_conflict)
  if type(outcome) ~= 'table' then
    if outcome ~= 'stored' then
      name(id, outcome)
    elseif returns_keys then
      stored_keys[#stored_keys + 1] = hash_prefix .. key_id
    end
    done[#done + 1] = id
    claimed = claimed + 1
    return true
  end
  local code = code_of(outcome)
  if SERVER_REFUSES[code] then
    refusal = code
    refused_what = string.match(outcome.err, "run the '[^']+' command") or refused_what
    return false
  end
  refuse(id, code == 'WRONGTYPE' and 'wrong_type' or 'error:' .. code)
  return true
end

-- TIME stands still in a script; the processor's clock does not. Redis 7.0 keeps it from scripts: there a run ends with so
-- many entries, or the first heavy chunk.
local MOST_WITHOUT_CLOCK = 64
local clock = rawget(_G, 'os') and os.clock
local started = clock and clock()

local function time_is_up(is_heavy)
  -- Half the time where entries are heavy: the next one may take as long as all so far.
  if clock then return clock() - started >= (is_heavy and run_s / 2 or run_s) end
  return is_heavy or taken >= MOST_WITHOUT_CLOCK
end

-- How many to read next: one at first, one more each time, and one for the rest of the run once a heavy one was met.
local slice, most = 1, LARGEST_SLICE

-- The entries from `first` on, where that ended, and whether they are heavy.
local function read_ahead(first, last)
  local found, at, held_kb, is_heavy = {}, first, collectgarbage('count'), false
  repeat
    local slice_last = math.min(at + slice - 1, last)
    for _, entry in ipairs(look_up(entries, at, slice_last)) do found[#found + 1] = entry end
    at = slice_last + 1
    is_heavy = collectgarbage('count') - held_kb > HEAVY_KB
    if is_heavy then most = 1 end
    slice = math.min(slice + 1, most)
  until is_heavy or at > last
  return found, at - 1, is_heavy
end

-- Settle from `first` on, up to CHUNK entries; returns where to go on, or nil if the run is to end.
local function settle_chunk(first)
  local last = math.min(first + CHUNK - 1, #ids, first + allowed - claimed - 1)
  local rows = look_up(pending_rows, first, last)
  local found, read_to, is_heavy = read_ahead(first, last)
  for i = first, read_to do
    local id, row, entry = ids[i], rows[i - first + 1], found[i - first + 1]
    if not row or (row[3] >= 0 and row[3] < min_idle_ms) then
      name(id, 'lost')
    elseif not entry then
      name(id, 'gone')
      done[#done + 1] = id
    elseif not settle(id, entry[2]) then
      return nil
    end
    taken = taken + 1
  end
  return not time_is_up(is_heavy) and read_to < #ids and claimed < allowed and read_to + 1 or nil
end

local window
if window_key then
  window = open_window(window_key)
  if window.err then return window end
  allowed = math.min(rate_limit - window.taken, #ids)
  if allowed <= 0 then return { 0, {}, {}, 0, wait_ms(window), {} } end
  local failure = charge(window, allowed)
  if failure then return failure end
end

local at = 1
while at do at = settle_chunk(at) end
acknowledge()
if window then settle_up(window, allowed, claimed, clock and 1000 * (clock() - started) or 0) end
if refusal and taken == 0 then return redis.error_reply(refusal .. ' the server refused to ' .. refused_what) end
local is_limited = window and claimed == allowed and taken < #ids
return { taken, named, traces, more_traces, is_limited and wait_ms(window) or 0, stored_keys }
