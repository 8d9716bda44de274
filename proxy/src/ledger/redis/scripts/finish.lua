-- Ends a hold once: as a request that came to what is said, or as one that never went upstream.
-- KEYS: an owner's hash and leases, the caller's first. ARGV: hold, memory in milliseconds, 'settle' or 'release',
-- three amounts, then tokens by kind for reports.
-- Reply: the charge, where a usage log wants to tell of it; else 1 when the hold was open.
local id, keep_ms, settles = ARGV[1], ARGV[2], ARGV[3] == 'settle'
local spent = settles and { tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]) } or { 0, 0, 0 }
local charged_parts = ''
local UNITS = { R = 1, T = 2, U = 3 }

-- The parts of a meter are filled in the order they were taken; the last takes what is left.
local function end_meters(owner, parts)
  charged_parts = charged_parts .. 'o ' .. owner .. '\n'
  local list, last, left = {}, {}, {}
  for meter, start, held in string.gmatch(parts, 'm (%S+) (%d+) (%d+)\n') do
    list[#list + 1] = { meter, tonumber(start), tonumber(held) }
    last[meter] = #list
    left[meter] = spent[UNITS[string.sub(meter, 1, 1)]]
  end
  for index, part in ipairs(list) do
    local meter, start, held = part[1], part[2], part[3]
    local charged = left[meter]
    if index ~= last[meter] then
      charged = math.min(charged, held)
    end
    left[meter] = left[meter] - charged
    end_part(owner, meter, start, held, charged)
    charged_parts = charged_parts .. part_text(meter, start, held, charged)
  end
end

-- Whatever it came to, it was one request.
local function end_rates(owner, parts)
  local held, rates = {}, {}
  for field, unit, limit, per, amount in string.gmatch(parts, 'r (%S+) (%d) (%d+) (%d+) (%d+)\n') do
    held[field] = (held[field] or 0) + tonumber(amount)
    rates[field] = { tonumber(unit), tonumber(limit), tonumber(per) }
  end
  for field, rate in pairs(rates) do
    local charged = (settles and rate[1] == 1) and held[field] or spent[rate[1]]
    local level = level_now(owner, field, rate[2]) + (charged - held[field]) * rate[3]
    redis.call('HSET', owner, field, text(capped(level)) .. ' ' .. text(now))
  end
end

-- What is reported belongs to the charge that is told of.
local function report(owner)
  for index, field in ipairs({ 'u:input', 'u:write', 'u:read', 'u:output' }) do
    redis.call('HSET', owner, field, text(capped(get(owner, field) + tonumber(ARGV[6 + index]))))
    spent[3 + index] = tonumber(ARGV[6 + index])
  end
  spent[8] = spent[3]
  redis.call('HSET', owner, 'u:nano', text(capped(get(owner, 'u:nano') + spent[3])))
end

local was_open = 0
for index = 1, #KEYS, 2 do
  local owner, leases = KEYS[index], KEYS[index + 1]
  reap(owner, leases)
  local parts = redis.call('HGET', owner, 'h:' .. id)
  if parts then
    was_open = 1
    end_meters(owner, parts)
    end_rates(owner, parts)
    if settles and index == 1 then
      report(owner)
    end
    redis.call('HDEL', owner, 'h:' .. id)
    redis.call('ZREM', leases, id)
    redis.call('PEXPIRE', owner, keep_ms)
  end
end
if settles and was_open == 1 then
  return note(id, 'settled', spent, charged_parts) or 1
end
-- Sent again because the answer was lost.
return settles and redis.call('HGET', LOG, 'c:' .. id) or was_open
