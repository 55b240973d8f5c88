-- The identity rule, as entry_key.py has it for Python: which id an entry's hash key has behind its prefix.
-- Put before settle.lua (see scripts.py). tests/test_entry_key.py holds both to the same answers.

local LONGEST_ID = 1024

local id_field_count = 0
local roles = {}  -- field name → its place among the id fields, or whatever else the caller looks for
local values = {} -- what the id fields of the entry that was read last hold

-- `names`: the id fields, joined by commas, which none of them holds.
local function use_id_fields(names)
  for name in string.gmatch(names, '[^,]+') do
    id_field_count = id_field_count + 1
    roles[name] = id_field_count
  end
end

-- One pass over an entry's names, the last of two alike winning: notes the values of the id fields; returns whether a field
-- with the role `wanted` is there.
local function read_names(fields, wanted)
  local is_there = false
  for i = 1, id_field_count do values[i] = nil end
  for i = #fields - 1, 1, -2 do
    local role = roles[fields[i]]
    if role and role == wanted then
      is_there = true
    elseif role and not values[role] then
      values[role] = fields[i + 1]
    end
  end
  return is_there
end

local function escaped(value)
  return (string.gsub(value, '[%%:]', { ['%'] = '%25', [':'] = '%3A' }))
end

-- The entry's id of the values that were read, or nil and what is wrong with it; a missing field comes before an empty one.
local function identity()
  local is_empty = false
  for i = 1, id_field_count do
    if not values[i] then return nil, 'no_id' end
    is_empty = is_empty or values[i] == ''
  end
  if is_empty then return nil, 'empty_id' end
  local id = values[1]
  if id_field_count > 1 then
    id = escaped(id)
    for i = 2, id_field_count do id = id .. ':' .. escaped(values[i]) end
  end
  if #id > LONGEST_ID then return nil, 'long_id' end
  return id
end
