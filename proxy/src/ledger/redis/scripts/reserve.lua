-- Takes amounts under everything that covers a request, or nothing.
-- KEYS: an owner's hash and leases, the caller's first. ARGV: hold, 'first' or 'again', lease and memory in
-- milliseconds, three amounts; then of each owner its limit of open requests or -1, how many meters and rates, the
-- meters (name, unit, 'lifetime' | 'calendar' and its period | 'rolling' and a period's width and how long one
-- counts, lowest Hard limit or -1) and the rates (field, unit, limit, interval, burst).
-- Reply: what came of it, the time, and of each owner its open requests, of each meter start, oldest period or -1,
-- taken, open and its periods, of each rate its level.
local at = 0
local function next_text()
  at = at + 1
  return ARGV[at]
end
local function next_number()
  return tonumber(next_text())
end

local id, is_first = next_text(), next_text() == 'first'
local lease_ms, keep_ms = next_number(), next_text()
local amounts = { next_number(), next_number(), next_number() }

local function field_of(meter, start)
  return 'b:' .. text(start) .. ':' .. meter.name
end

-- Lets go of periods of a rolling window that are wholly old.
local function roll(owner, meter, counts_ms)
  local gone = {}
  while meter.first >= 0 do
    local amount = redis.call('HGET', owner, field_of(meter, meter.first))
    if amount and meter.first + counts_ms > now then
      break
    end
    if amount then
      meter.taken = meter.taken - tonumber(amount)
      gone[#gone + 1] = field_of(meter, meter.first)
    end
    meter.first = meter.first + meter.width
    if meter.first > meter.start then
      meter.first = -1
    end
  end
  if #gone > 0 then
    redis.call('HDEL', owner, unpack(gone))
    redis.call('HSET', owner, 't:' .. meter.name, text(capped(meter.taken)), 'f:' .. meter.name, text(meter.first))
  end
end

local function read_meter(owner)
  local meter = { name = next_text(), unit = next_number(), window = next_text(), first = -1, width = 0 }
  local known = redis.call('HMGET', owner, 's:' .. meter.name, 't:' .. meter.name, 'o:' .. meter.name, 'f:' .. meter.name)
  meter.start, meter.taken, meter.open = tonumber(known[1] or 0), tonumber(known[2] or 0), tonumber(known[3] or 0)
  if meter.window == 'calendar' then
    local first, last = next_number(), next_number()
    -- The caller could only guess the server's time. A clock that was set back opens no period again.
    meter.is_unknown = now >= last or (now < first and meter.start < first)
    if meter.start < first then
      meter.start, meter.taken, meter.open = first, 0, 0
    end
  elseif meter.window == 'rolling' then
    meter.width = next_number()
    meter.first = tonumber(known[4] or -1)
    roll(owner, meter, next_number())
    meter.start = math.max(meter.start, math.floor(now / meter.width) * meter.width)
  end
  meter.hard = next_number()
  return meter
end

local function read_owner(index)
  local owner = { key = KEYS[index], leases = KEYS[index + 1], meters = {}, rates = {} }
  reap(owner.key, owner.leases)
  owner.open = redis.call('ZCOUNT', owner.leases, '(' .. text(now), '+inf')
  owner.limit = next_number()
  local meters, rates = next_number(), next_number()
  for _ = 1, meters do
    owner.meters[#owner.meters + 1] = read_meter(owner.key)
  end
  for _ = 1, rates do
    local rate = { field = next_text(), unit = next_number(), limit = next_number(), per = next_number(), burst = next_number() }
    rate.level = level_now(owner.key, rate.field, rate.limit)
    owner.rates[#owner.rates + 1] = rate
  end
  return owner
end

-- What the step takes of a rate. Every request is at least one, also one that no budget counts.
local function amount_of(rate)
  return math.max(amounts[rate.unit], is_first and rate.unit == 1 and 1 or 0)
end

local function refuses(owner)
  if is_first and owner.limit >= 0 and owner.open >= owner.limit then
    return true
  end
  for _, meter in ipairs(owner.meters) do
    local amount = amounts[meter.unit]
    local wanted = meter.taken + amount
    if amount > 0 and (wanted > MOST or (meter.hard >= 0 and wanted > meter.hard)) then
      return true
    end
  end
  for _, rate in ipairs(owner.rates) do
    local amount = amount_of(rate)
    if amount > 0 and rate.level + amount * rate.per > rate.burst * rate.per then
      return true
    end
  end
  return false
end

local function take(owner)
  local fields, parts = {}, {}
  local function put(field, value)
    fields[#fields + 1] = field
    fields[#fields + 1] = value
  end
  for _, meter in ipairs(owner.meters) do
    local amount = amounts[meter.unit]
    meter.taken, meter.open = meter.taken + amount, meter.open + amount
    put('t:' .. meter.name, text(meter.taken))
    put('o:' .. meter.name, text(meter.open))
    if meter.window ~= 'lifetime' then
      put('s:' .. meter.name, text(meter.start))
    end
    if meter.window == 'rolling' then
      if meter.first < 0 then
        meter.first = meter.start
        put('f:' .. meter.name, text(meter.first))
      end
      put(field_of(meter, meter.start), text(get(owner.key, field_of(meter, meter.start)) + amount))
    end
    parts[#parts + 1] = 'm ' .. meter.name .. ' ' .. text(meter.start) .. ' ' .. text(amount) .. '\n'
  end
  for _, rate in ipairs(owner.rates) do
    local amount = amount_of(rate)
    rate.level = capped(rate.level + amount * rate.per)
    put(rate.field, text(rate.level) .. ' ' .. text(now))
    parts[#parts + 1] = 'r ' .. rate.field .. ' ' .. rate.unit .. ' ' .. text(rate.limit) .. ' ' .. text(rate.per) .. ' ' .. text(amount) .. '\n'
  end
  local earlier = redis.call('HGET', owner.key, 'h:' .. id) or ''
  put('h:' .. id, earlier .. table.concat(parts))
  redis.call('HSET', owner.key, unpack(fields))
  redis.call('ZADD', owner.leases, text(now + lease_ms), id)
  redis.call('PEXPIRE', owner.key, keep_ms)
  redis.call('PEXPIRE', owner.leases, keep_ms)
end

local function reply(outcome, owners)
  local told = { outcome, now, moment }
  local function tell(value)
    told[#told + 1] = value
  end
  for _, owner in ipairs(owners) do
    tell(owner.open)
    for _, meter in ipairs(owner.meters) do
      tell(meter.start)
      tell(meter.first)
      tell(meter.taken)
      tell(meter.open)
      -- When room comes depends on every period; nobody asks while there is some.
      local is_full = outcome == 'refused' or (meter.hard >= 0 and meter.taken >= meter.hard)
      local start = is_full and meter.first or -1
      while start >= 0 and start <= meter.start do
        local amount = redis.call('HGET', owner.key, field_of(meter, start))
        if amount then
          tell(start)
          tell(tonumber(amount))
        end
        start = start + meter.width
      end
      tell(-1)
    end
    for _, rate in ipairs(owner.rates) do
      tell(rate.level)
    end
  end
  return told
end

local owners, is_refused = {}, false
for index = 1, #KEYS, 2 do
  owners[#owners + 1] = read_owner(index)
end
for _, owner in ipairs(owners) do
  for _, meter in ipairs(owner.meters) do
    if meter.is_unknown then
      return { 'unknown', now, moment }
    end
  end
  is_refused = is_refused or refuses(owner)
end
-- Not before: what has expired is held no more.
local is_held = redis.call('HEXISTS', KEYS[1], 'h:' .. id) == 1
if not is_first and not is_held then
  return { 'ended', now, moment }
end
if is_first and is_held then
  -- Sent again because the answer was lost.
  return reply('admitted', owners)
end
if is_refused then
  return reply('refused', owners)
end
for _, owner in ipairs(owners) do
  take(owner)
end
return reply('admitted', owners)
