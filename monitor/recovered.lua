-- A key as JSON for the message on RECOVERED_CHANNEL (see recovered.py, whose message this matches). Put before settle.lua.

-- By the table of well-formed sequences in the Unicode standard (3.9, table 3-7).
local SEQUENCES = { '^[\194-\223][\128-\191]', '^\224[\160-\191][\128-\191]', '^[\225-\236\238\239][\128-\191][\128-\191]',
  '^\237[\128-\159][\128-\191]', '^\240[\144-\191][\128-\191][\128-\191]', '^[\241-\243][\128-\191][\128-\191][\128-\191]',
  '^\244[\128-\143][\128-\191][\128-\191]' }

local function is_utf8(text)
  local at = string.find(text, '[\128-\255]')
  while at do
    local last
    for i = 1, #SEQUENCES do last = last or select(2, string.find(text, SEQUENCES[i], at)) end
    if not last then return false end
    at = string.find(text, '[\128-\255]', last + 1)
  end
  return true
end

local DIGITS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

local function base64(text)
  local encoded = string.gsub(text, '..?.?', function(three)
    local a, b, c = string.byte(three, 1, 3)
    local bits, digits = a * 65536 + (b or 0) * 256 + (c or 0), ''
    for power = 3, 3 - #three, -1 do
      local digit = math.floor(bits / 64 ^ power) % 64 + 1
      digits = digits .. string.sub(DIGITS, digit, digit)
    end
    return digits .. string.rep('=', 3 - #three)
  end)
  return encoded
end

local function key_as_json(key)
  return is_utf8(key) and cjson.encode(key) or '{"base64": "' .. base64(key) .. '"}'
end

