-- A bounded run over pending entries: reads them a few at a time, acts on each, and ends before it keeps anybody waiting for
-- long. Put before settle.lua and requeue.lua (see scripts.py), whose headers declare what it uses: stream, window_key, group,
-- consumer, min_idle_ms, run_ms, most_traces, rate_limit, joined_ids. `open_window` and its like come from rate.lua.

-- Entries are read a few at a time, since each may be of 1 MB (1.3 ms to read), until CHUNK of them are there or they made
-- Lua's memory grow by HEAVY_KB; then all are written, which an indexing server does faster in a row; then the clock is
-- looked at.
local CHUNK, LARGEST_SLICE, HEAVY_KB = 32, 8, 128
-- TIME stands still in a script; the processor's clock does not. Redis 7.0 keeps it from scripts: there a run ends with so
-- many entries, or the first heavy chunk.
local MOST_WITHOUT_CLOCK = 64

local clock = rawget(_G, 'os') and os.clock
local started = clock and clock()

local function took_ms() return clock and 1000 * (clock() - started) or 0 end

local function time_is_up(taken, is_heavy)
  -- Half the time where entries are heavy: the next one may take as long as all so far.
  if clock then return took_ms() >= (is_heavy and run_ms / 2 or run_ms) end
  return is_heavy or taken >= MOST_WITHOUT_CLOCK
end

-- --- what becomes of each entry ----------------------------------------------------------------------------------------

local ids = {}
for id in string.gmatch(joined_ids, '%S+') do ids[#ids + 1] = id end

local done, named = {}, {}       -- ids to acknowledge; ids and words in turn
local claimed, granted = 0, #ids -- what the rate limit counts: entries that were acted upon or at fault
local refused                    -- the error with which the server refused an entry, and would refuse the next

local function name(id, outcome)
  named[#named + 1] = id
  named[#named + 1] = outcome
end

local function finish(id)
  done[#done + 1] = id
  claimed = claimed + 1
end

-- Kept out of the others' and our own reach for another min idle; JUSTID leaves the delivery count as it was.
local function refuse(id, reason)
  redis.call('XCLAIM', stream, group, consumer, 0, id, 'JUSTID')
  claimed = claimed + 1
  name(id, reason)
end

local function note_refusal(code, failure, what)
  refused = code .. ' the server refused to ' .. (string.match(failure.err, "run the '[^']+' command") or what)
end

local LONGEST_TRACEPARENT, LONGEST_TRACESTATE = 64, 512 -- W3C: 55 in version 00, and 512; longer ones stay here
local traces, more_traces = {}, 0

local function note_trace(parent, state)
  if parent == '' or #parent > LONGEST_TRACEPARENT or most_traces == 0 then return end
  if #traces == 2 * most_traces then
    more_traces = more_traces + 1
    return
  end
  traces[#traces + 1] = parent
  traces[#traces + 1] = #state <= LONGEST_TRACESTATE and state or ''
end

-- --- the run -----------------------------------------------------------------------------------------------------------

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

-- How many to read next: one at first, one more each time, and one for the rest of the run once a heavy one was met.
local slice, most = 1, LARGEST_SLICE

-- The entries from `first` on, where that ended, and whether they are heavy.
local function read_ahead(entries, first, last)
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

local function pending_rows(from, to, count) return redis.call('XPENDING', stream, group, from, to, count) end
local function entries(from, to, count) return redis.call('XRANGE', stream, from, to, 'COUNT', count) end

-- How many of the ids were gone through.
local function go_through(act)
  local taken, at = 0, 1
  while at <= #ids and claimed < granted do
    local last = math.min(at + CHUNK - 1, #ids, at + granted - claimed - 1)
    local rows = look_up(pending_rows, at, last)
    local found, read_to, is_heavy = read_ahead(entries, at, last)
    for i = at, read_to do
      local id, row, entry = ids[i], rows[i - at + 1], found[i - at + 1]
      if not row or (row[3] >= 0 and row[3] < min_idle_ms) then
        name(id, 'lost')
      elseif not entry then
        name(id, 'gone')
        done[#done + 1] = id
      elseif not act(id, entry[2]) then
        return taken
      end
      taken = taken + 1
    end
    if time_is_up(taken, is_heavy) then return taken end
    at = read_to + 1
  end
  return taken
end

-- What the scripts return, as their heads have it. `act(id, fields)` is called for each entry that is in the stream, pending
-- and idle for long enough; it ends the run before this entry if it answers false.
local function run_through(act)
  local window
  if window_key then
    window = open_window(window_key)
    if window.err then return window end
    granted = math.min(rate_limit - window.taken, #ids)
    if granted <= 0 then return { 0, {}, {}, 0, wait_ms(window) } end
    local failure = charge(window, granted)
    if failure then return failure end
  end
  local taken = go_through(act)
  for first = 1, #done, 1000 do
    redis.call('XACK', stream, group, unpack(done, first, math.min(first + 999, #done)))
  end
  if window then settle_up(window, granted, claimed, took_ms()) end
  if refused and taken == 0 then return redis.error_reply(refused) end
  local is_limited = window and claimed == granted and taken < #ids
  return { taken, named, traces, more_traces, is_limited and wait_ms(window) or 0 }
end

local function code_of(failure)
  if string.find(failure.err, 'access a non local key', 1, true) or string.find(failure.err, 'the same slot', 1, true) then
    return 'CROSSSLOT'
  end
  if string.find(failure.err, 'cluster is down', 1, true) or string.find(failure.err, 'slot not served', 1, true) then
    return 'CLUSTERDOWN'
  end
  if string.find(failure.err, 'ACL failure', 1, true) or string.find(failure.err, "can't run this command", 1, true) then
    return 'NOPERM' -- 7.2 and later; 7.0
  end
  if string.find(failure.err, 'nknown Redis command', 1, true) then return 'NOCOMMAND' end -- renamed or disabled
  return string.match(failure.err, '^-?(%u+)') or 'ERR'
end
