-- Store one stream entry in its hash, by the rule that ON_CONFLICT names, in one atomic step.
--
-- A consumer that shares its hashes with the janitor runs this script instead of HSET, so that both follow one rule:
--   redis-cli --eval store.lua tweet:42 , newer 1700000000000-0 id 42 user jo text hello
-- KEYS[1]   the hash
-- ARGV[1]   overwrite | newer | keep; with a TTL behind it (`newer ttl=3600`) the write sets the key's expiry, and ttl=0 removes
--           it (see STORE_TTL_SEC); what is kept or superseded changes none
-- ARGV[2]   the entry's id in the stream
-- ARGV[3..] its fields and values in turn; of a field that is there twice the last value wins
-- Returns   stored | kept | superseded; an error (WRONGTYPE: the key holds no hash; FAULT reserved_field: under `newer` an
--           entry brings a field stream_entry_id of its own) leaves the key as it was.
-- No shebang line, so it runs on Redis 6.0 too: its first write is the HSET, which a full or read-only server refuses.

local ENTRY_ID_FIELD = 'stream_entry_id' -- under `newer`: which entry the hash holds
local MOST_VALUES = 4000                 -- Lua's unpack fails at about 8,000 values; a multiple of 2

-- Ids are two decimal numbers of up to 20 digits: more than a Lua number holds exactly, so longer means greater.
local function greater(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end

local function is_newer(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  if not b_ms or not a_ms then return a_ms ~= nil end
  if a_ms ~= b_ms then return greater(a_ms, b_ms) end
  return greater(a_seq, b_seq)
end

-- HSET in slices. Only the first can fail: after it the key is a hash and the script has written.
local function write(key, fields)
  if #fields <= MOST_VALUES then return redis.pcall('HSET', key, unpack(fields)) end
  for first = 1, #fields, MOST_VALUES do
    local reply = redis.pcall('HSET', key, unpack(fields, first, math.min(first + MOST_VALUES - 1, #fields)))
    if type(reply) == 'table' then return reply end
  end
end

-- An error with which the entry is at fault: `fault` is its word in outcomes.py.
local function at_fault(word, text) return { err = 'FAULT ' .. word .. ': ' .. text, fault = word } end

-- The fields that an older version left in the hash and this entry does not have.
local function stale_fields(key, fields)
  local wanted, stale = { [ENTRY_ID_FIELD] = true }, {}
  for i = 1, #fields, 2 do wanted[fields[i]] = true end
  for _, name in ipairs(redis.call('HKEYS', key)) do
    if not wanted[name] then stale[#stale + 1] = name end
  end
  return stale
end

-- Redis 7.0: without the right to HDEL the HSET would leave a mix of both versions behind.
local function may_drop(key, stale)
  return #stale == 0 or not redis.acl_check_cmd or redis.acl_check_cmd('HDEL', key, stale[1])
end

local function store_newer(key, entry_id, fields)
  for i = 1, #fields, 2 do
    if fields[i] == ENTRY_ID_FIELD then return at_fault('reserved_field', 'under newer no entry may hold ' .. fields[i]) end
  end
  local held = redis.pcall('HGET', key, ENTRY_ID_FIELD)
  if type(held) == 'table' then return held end
  if held and is_newer(held, entry_id) then return 'superseded' end
  local stale = stale_fields(key, fields)
  if not may_drop(key, stale) then
    return { err = "NOPERM ACL failure in script: no permissions to run the 'hdel' command" }
  end
  fields[#fields + 1] = ENTRY_ID_FIELD
  fields[#fields + 1] = entry_id
  local failure = write(key, fields)
  if type(failure) == 'table' then return failure end
  -- After the HSET: a server that refuses the write must still have the old version whole.
  for first = 1, #stale, MOST_VALUES do
    redis.call('HDEL', key, unpack(stale, first, math.min(first + MOST_VALUES - 1, #stale)))
  end
  return 'stored'
end

local function store(key, entry_id, fields, on_conflict)
  if on_conflict == 'newer' then return store_newer(key, entry_id, fields) end
  if on_conflict == 'keep' then
    local held = redis.pcall('HLEN', key)
    if type(held) == 'table' then return held end
    if held > 0 then return 'kept' end
  end
  local failure = write(key, fields)
  if type(failure) == 'table' then return failure end
  return 'stored'
end

-- What `call` answers to the command that gives the key so many seconds to live; 0: it lives for good.
local function set_expiry(call, key, ttl_s)
  if ttl_s == '0' then return call('PERSIST', key) end
  return call('EXPIRE', key, ttl_s)
end

-- A write that sets the key's expiry as well: `write` returns what `store` does.
local function with_expiry(write, ttl_s)
  local refusal = { err = "NOPERM ACL failure in script: no permissions to run the '"
    .. (ttl_s == '0' and 'persist' or 'expire') .. "' command" }
  return function(key, entry_id, fields, on_conflict)
    -- Redis 7.0: without the right nothing is written, or it would outlive what was asked for.
    if redis.acl_check_cmd and not set_expiry(redis.acl_check_cmd, key, ttl_s) then return refusal end
    local outcome = write(key, entry_id, fields, on_conflict)
    if outcome ~= 'stored' then return outcome end
    local reply = set_expiry(redis.pcall, key, ttl_s)
    if type(reply) ~= 'table' then return outcome end
    return string.find(reply.err, "can't run this command", 1, true) and refusal or reply -- 6.2's words for a missing right
  end
end

-- main: what is above this line is also the first part of settle.lua as the server gets it (see scripts.py)
local rule, ttl_s = string.match(ARGV[1], '^(%l+) ttl=(%d+)$')
rule = rule or ARGV[1]
if rule ~= 'overwrite' and rule ~= 'newer' and rule ~= 'keep' then
  return redis.error_reply('ERR expected overwrite, newer or keep, and perhaps ttl=SECONDS behind it')
end
local fields = {}
for i = 3, #ARGV do fields[i - 2] = ARGV[i] end
return (ttl_s and with_expiry(store, ttl_s) or store)(KEYS[1], ARGV[2], fields, rule)
