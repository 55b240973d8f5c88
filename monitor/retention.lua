-- Trim one slice of what every group has finished with: the bound is found and the trim done in one run, so that no group can
-- read, claim, be set back or be created in between.
--
-- @key stream              the stream
-- @arg retain_ms (number)  entries younger than that, by the server's clock, remain
-- @arg limit (number)      of XTRIM in this slice
-- @arg task                trim | look: trim nothing | idle: trim unless one of our own groups has something pending
-- @arg needs_group (flag)  whether a stream that no group reads is left alone
-- @arg own_count (number)  how many of the names that follow are of our own groups
-- @rest own_at             the names of our own groups, then globs (* and ?) of the groups that hold nothing
--
-- Returns  pairs: `state` is `bounded`, or why nothing was done: `busy` (only for idle), `no_stream`, `no_group`, `all_ignored`,
--          `many_groups`, `no_times` (the ids are no times by the server's clock), `ahead` (as before), `old` (no MINID:
--          Redis below 6.2). `trimmed`; `length` (-1: this user may not ask); `first`: the first entry's id before this run.
--          With `bounded` also: `bound`: only what lies before it may go. `rest`: `done` (nothing before it is left), `more`
--          (another slice), `node` (~ removed nothing, and what is left is no handful). `limit`: what was taken for it, less
--          than asked for if the first entry is large. `held_by`, `held_at`, `lag` (-1: not known), `pending`: the group but for
--          which older entries could go, empty if there is none; once `rest` is done.
--          `took_us`, `fixed_us`: the processor's time of this run and of what came before its trim; -1: no clock (below 7.2).
--
-- XTRIM … ~ removes whole nodes and looks at no entry; what is left in the first node is trimmed exactly if it is a handful,
-- which it is in a node of default size. Ids are compared as padded strings: Lua's numbers are doubles, in which two
-- neighbouring sequence numbers can be equal. No shebang line, which Redis 6.2 does not know. Redis 6.2 (MINID).

if redis.replicate_commands then redis.replicate_commands() end -- below 7.0 a script that asked for TIME may not write otherwise

local MOST_GROUPS, LONGEST_NAME, HANDFUL, LARGEST_SLICE, HEAVY_BYTES = 100, 1024, 100, 8, 131072
local SLICE_BYTES, LEAST_LIMIT = 33554432, 8
local FIRST_TIME = '1420070400000-0' -- 2015: no stream is older (Redis 5.0 is of 2018)

local first_glob, own = own_at + own_count, {}
for i = own_at, first_glob - 1 do own[ARGV[i]] = true end

local clock = rawget(_G, 'os') and os.clock
local started = clock and clock()
local reply = { trimmed = 0, length = -1, first = '' }

local function answer(state)
  reply.state = state
  reply.took_us = clock and math.floor(1e6 * (clock() - started)) or -1
  local flat = {}
  for name, value in pairs(reply) do
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  return flat
end

-- Goes back to the last star only, so that no name can keep the server busy; `?` is one byte.
local function matches(name, glob)
  local at, glob_at, star, resume = 1, 1, nil, nil
  while at <= #name do
    local wanted = string.sub(glob, glob_at, glob_at)
    if wanted == '*' then
      star, resume, glob_at = glob_at, at, glob_at + 1
    elseif wanted == '?' or wanted == string.sub(name, at, at) then
      at, glob_at = at + 1, glob_at + 1
    elseif star then
      resume = resume + 1
      at, glob_at = resume, star + 1
    else
      return false
    end
  end
  return string.find(glob, '^%**$', glob_at) ~= nil
end

local function is_ignored(name)
  if own[name] or #name > LONGEST_NAME then return false end
  for i = first_glob, #ARGV do
    if matches(name, ARGV[i]) then return true end
  end
  return false
end

local function padded(id)
  local time, sequence = string.match(id, '^(%d+)%-(%d+)$')
  return string.rep('0', 20 - #time) .. time .. string.rep('0', 20 - #sequence) .. sequence
end

local function is_before(id, other) return padded(id) < padded(other) end

local function first_between(from, to) return redis.call('XRANGE', stream, from, to, 'COUNT', 1)[1] end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local cutoff = string.format('%.0f-0', math.max(now_ms - retain_ms, 1))

local rows = redis.pcall('XINFO', 'GROUPS', stream)
if rows.err then
  if string.find(rows.err, 'no such key', 1, true) then return answer('no_stream') end
  return rows
end
local length = redis.pcall('XLEN', stream)
if type(length) == 'number' then reply.length = length end

-- Before which id this group needs nothing: the smaller of what it was given last and what it has pending first. Always both:
-- XGROUP SETID backwards and XCLAIM FORCE leave pending ids above the last one that was given.
local function needs_from(group)
  local at, is_pending = group['last-delivered-id'], false
  local oldest = group.pending > 0 and redis.call('XPENDING', stream, group.name, '-', '+', 1)[1]
  if oldest and not is_before(at, oldest[1]) then at, is_pending = oldest[1], true end
  return at, is_pending
end

if #rows > MOST_GROUPS then return answer('many_groups') end
local counted = {}
for _, row in ipairs(rows) do
  local group = {}
  for i = 1, #row, 2 do group[row[i]] = row[i + 1] end
  if task == 'idle' and own[group.name] and group.pending > 0 then return answer('busy') end
  if not is_ignored(group.name) then counted[#counted + 1] = group end
end
if #counted == 0 and needs_group then return answer(#rows == 0 and 'no_group' or 'all_ignored') end

local bound, holder, is_pending = cutoff, nil, false
for _, group in ipairs(counted) do
  local at, by_pending = needs_from(group)
  if is_before(at, bound) then bound, holder, is_pending = at, group, by_pending end
end

local function bytes_of(entries)
  local bytes = 0
  for _, entry in ipairs(entries) do
    for _, part in ipairs(entry[2]) do bytes = bytes + #part end
  end
  return bytes
end

-- An id after which, not from which: Redis below 6.2 knows neither that nor MINID.
local all = redis.pcall('XRANGE', stream, '(0-0', '+', 'COUNT', 1)
if all.err then
  if string.find(all.err, 'Invalid stream ID', 1, true) then return answer('old') end
  return all
end
local first = all[1]
reply.first = first and first[1] or ''
if first then
  -- To free large ones takes long, 24 µs for each of 1 MB.
  limit = math.min(limit, math.max(math.floor(SLICE_BYTES / (bytes_of(all) + 1)), LEAST_LIMIT))
  if first_between(string.format('%.0f', now_ms + 1), '+') then return answer('ahead') end
  if is_before(first[1], FIRST_TIME) and not first_between(FIRST_TIME, '+') then return answer('no_times') end
end

-- Whether no more than a handful is left before the bound, and none of it is heavy: 1 MB takes 1.3 ms to read.
local function is_handful()
  local from, left, slice, bytes_left = '-', HANDFUL, 1, HEAVY_BYTES
  while true do
    local entries = redis.call('XRANGE', stream, from, '(' .. bound, 'COUNT', slice)
    left = left - #entries
    if #entries < slice then return left >= 0 end
    bytes_left = bytes_left - bytes_of(entries)
    if left < 0 or bytes_left < 0 then return false end
    from, slice = '(' .. entries[#entries][1], math.min(slice + 1, LARGEST_SLICE)
  end
end

local function trim()
  local trimmed = redis.pcall('XTRIM', stream, 'MINID', '~', bound, 'LIMIT', limit)
  if type(trimmed) == 'table' then return trimmed end
  reply.trimmed = trimmed
  if trimmed > 0 and limit - trimmed < HANDFUL then
    reply.rest = 'more'
  elseif is_handful() then
    reply.trimmed = trimmed + redis.call('XTRIM', stream, 'MINID', '=', bound)
    reply.rest = 'done'
  else
    reply.rest = trimmed > 0 and 'more' or 'node'
  end
end

reply.bound, reply.rest, reply.limit = bound, 'done', limit
reply.held_by, reply.held_at, reply.lag, reply.pending = '', '', -1, 0
reply.fixed_us = clock and math.floor(1e6 * (clock() - started)) or -1
if task ~= 'look' and first and is_before(first[1], bound) then
  local failure = trim()
  if failure then return failure end
end
if reply.rest == 'done' and holder and first_between((is_pending and '' or '(') .. bound, '(' .. cutoff) then
  reply.held_by, reply.held_at = holder.name, bound
  reply.lag, reply.pending = holder.lag or -1, holder.pending
end
return answer('bounded')
