-- STORE_AS=json: the document that an entry becomes, and its write. document.py has the same rule for Python, with the reasons;
-- tests/test_document.py holds both to the same answers.
-- `greater`, `at_fault` and `with_expiry` come from store.lua, which is put before this text (see scripts.py).

local LARGEST, SMALLEST = '18446744073709551615', '9223372036854775808'

-- The double that RedisJSON makes of digits × 10^exponent.
local function as_parsed(digits, exponent)
  local count = #digits
  if count >= #LARGEST then count = greater(string.sub(digits, 1, 20), LARGEST) and 19 or 20 end
  local value = tonumber(string.sub(digits, 1, count)) or 0
  exponent = exponent + #digits - count
  if value ~= 0 and exponent > 308 then return math.huge end
  while value ~= 0 and exponent < -308 do
    value = value / 1e308
    exponent = exponent + 308
  end
  if value == 0 then return 0 end
  local power = tonumber('1e' .. math.abs(exponent))
  return exponent >= 0 and value * power or value / power
end

local function parts(token)
  local whole, fraction, power = string.match(token, '^-?(%d+)%.?(%d*)[eE]?([+-]?%d*)$')
  if not whole then return nil end
  return string.gsub(whole .. fraction, '^0+', ''), (tonumber(power) or 0) - #fraction, whole
end

-- The digits without zeros at their ends, and the power of ten of the last one, as one text.
local function normal(digits, exponent)
  local kept = string.gsub(digits, '0+$', '')
  return kept == '' and '' or kept .. 'e' .. (exponent + #digits - #kept)
end

-- Whether JSON.GET shows a double as these digits: as the shortest text that stands for it.
local function is_shown_as(value, digits, exponent)
  local wanted = normal(digits, exponent)
  for count = value < 1e-290 and 1 or 15, 17 do -- the smallest doubles have fewer digits
    local text = string.format('%.' .. count .. 'g', value)
    if tonumber(text) == value then
      local shown, shown_exponent = parts(text)
      return normal(shown, shown_exponent) == wanted
    end
    -- Of a power of two the nearest text of 16 digits may stand for the double below, and the one after it for this.
    if count == 16 and string.find(wanted, 'e', 1, true) == 17 and tonumber(wanted) == value then
      return true
    end
  end
end

-- Whether JSON.SET would keep another number than this one, or none for it.
local function is_changed(token)
  local length = #token - (string.byte(token) == 45 and 1 or 0)
  if length <= 15 and not string.find(token, '[eE]') then return false end
  local digits, exponent, whole = parts(token)
  if not digits then return false end
  if #whole == length and not greater(digits, length < #token and SMALLEST or LARGEST) then return false end
  local kept = as_parsed(digits, exponent)
  return kept == math.huge or not is_shown_as(kept, digits, exponent)
end

-- What is wrong with a text that is to be a document, as far as JSON.SET would not say so.
local LONG_NUMBER = '%f[%d.]' .. string.rep('[%d.]', 16) -- shorter ones without an exponent are kept as they are

local function document_fault(text)
  -- A mark stands for what is taken out, so that behind the object it is seen as well.
  local bare = string.find(text, '\\', 1, true) and string.gsub(text, '\\.', 'x') or text
  bare = string.gsub(bare, '"[^"]*"', 'x')
  if not string.find(bare, '^[ \t\r\n]*%b{}[ \t\r\n]*$') then
    return at_fault('not_json', 'the document is not one JSON object')
  end
  if not string.find(bare, LONG_NUMBER) and not string.find(bare, '%d[eE]') then return nil end
  for token in string.gmatch(bare, '-?%d[%d.eE+-]*') do
    if is_changed(token) then return at_fault('number_changed', 'JSON.SET would change a number of the document') end
  end
end

-- The document of an entry, and what is wrong with it.
local function document_of(fields, payload_field)
  local values = {}
  for i = 1, #fields, 2 do values[fields[i]] = fields[i + 1] end
  if payload_field == '' then return cjson.encode(values) end
  local text = values[payload_field]
  if not text then return nil, at_fault('no_payload', 'there is no field ' .. payload_field) end
  return text, document_fault(text)
end

local function set_document(key, document, on_conflict)
  local reply
  if on_conflict == 'keep' then
    reply = redis.pcall('JSON.SET', key, '$', document, 'NX')
  else
    reply = redis.pcall('JSON.SET', key, '$', document)
  end
  if not reply then return 'kept' end
  if not reply.err then return 'stored' end
  if string.find(reply.err, 'wrong Redis type', 1, true) then return { err = 'WRONGTYPE ' .. reply.err } end
  if string.find(reply.err, '[Uu][Tt][Ff]%-8') then return at_fault('not_utf8', 'JSON.SET takes no other than UTF-8') end
  if string.find(reply.err, ' at line %d+ column %d+') then return at_fault('not_json', 'JSON.SET does not take it') end
  return reply
end

-- What `store` is for hashes.
local function document_writer(payload_field)
  return function(key, _, fields, on_conflict)
    local document, failure = document_of(fields, payload_field)
    if failure then return failure end
    return set_document(key, document, on_conflict)
  end
end

-- main: for gather under STORE_TTL_SEC, in one step
-- KEYS[1]  the key
-- ARGV     overwrite | keep; the TTL in seconds (0: none); the document
-- Returns  stored | kept. Any Redis from 6.0 with RedisJSON.
return with_expiry(function(key, _, _, rule) return set_document(key, ARGV[3], rule) end, ARGV[2])(KEYS[1], nil, nil, ARGV[1])
