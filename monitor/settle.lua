-- Settle a batch of abandoned entries where they lie: store each in its hash, acknowledge it, say what became of it.
-- `store` comes from store.lua, `document_writer` from document.lua, `identity` and its like from entry_key.lua, `run_through`
-- and its like from bounded.lua; they and the locals that the next lines declare are put before this text (see scripts.py).
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
-- @arg store_as             hash | json
-- @arg payload_field        json: the field that holds the document; empty: the entry's fields are one
-- @arg ttl_s                seconds that the key of what is stored lives from then on; 0: for good; empty: its expiry stays as it is
-- @arg id_fields            the names of the id fields, joined by commas
-- @arg guarded_keys         keys of the janitor's own that an id could name, each behind a NUL
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

-- The server's own refusals: not the entry's fault, and the next entry would meet them as well.
local SERVER_REFUSES = { OOM = true, MISCONF = true, NOREPLICAS = true, READONLY = true, NOPERM = true, CROSSSLOT = true,
  MOVED = true, ASK = true, CLUSTERDOWN = true, TRYAGAIN = true, LOADING = true, BUSY = true, MASTERDOWN = true, NOCOMMAND = true }

local TRACE = 0
roles.traceparent, roles.tracestate = TRACE, TRACE
use_id_fields(id_fields) -- after the two: one of them that is an id field belongs to the data

local guarded -- nil: no id can name a key of the janitor's own
for key in string.gmatch(guarded_keys, '%z([^%z]+)') do
  guarded = guarded or {}
  guarded[key] = true
end

-- The key of the entry that was read last, or nil and its fault; entry_key.py has the same.
local function hash_key()
  local key_id, fault = identity()
  if fault then return nil, fault end
  local key = hash_prefix .. key_id
  if guarded and guarded[key] then return nil, 'own_key' end
  return key
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

local write_entry = store_as == 'json' and document_writer(payload_field) or store
if ttl_s ~= '' then write_entry = with_expiry(write_entry, ttl_s) end
local stored_keys = {}

-- False if the server refuses, and would refuse the next one too.
local function settle(id, fields)
  if read_names(fields, TRACE, id) then
    local rest = split_from_trace(fields)
    if not keeps_trace_fields and #rest > 0 then fields = rest end -- under @entry there may be nothing else
  end
  local key, fault = hash_key()
  if fault then
    refuse(id, fault)
    return true
  end
  local outcome = write_entry(key, id, fields, on_conflict)
  if type(outcome) ~= 'table' then
    if outcome ~= 'stored' then
      name(id, outcome)
    elseif returns_keys then
      stored_keys[#stored_keys + 1] = key
    end
    finish(id)
    return true
  end
  if outcome.fault then
    refuse(id, outcome.fault)
    return true
  end
  local code = code_of(outcome)
  if SERVER_REFUSES[code] then
    note_refusal(code, outcome, 'do the write')
    return false
  end
  refuse(id, code == 'WRONGTYPE' and 'wrong_type' or 'error:' .. code)
  return true
end

local answer = run_through(settle)
if not answer.err then answer[6] = stored_keys end
return answer
