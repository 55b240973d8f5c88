-- How long an entry has to be idle before a sweep takes it, as patience.py has it for Python.
-- Put before settle.lua (see scripts.py). tests/test_patience.py holds both to the same answers.

local MOST_DOUBLINGS = 64

-- Milliseconds, for an entry that was delivered so often.
local function threshold_ms(min_idle_ms, backoff, backoff_max_ms, deliveries)
  if backoff == 1 then return min_idle_ms end
  local grown = min_idle_ms * backoff ^ math.min(math.max(deliveries - 1, 0), MOST_DOUBLINGS)
  return math.max(min_idle_ms, math.floor(math.min(grown, backoff_max_ms)))
end
