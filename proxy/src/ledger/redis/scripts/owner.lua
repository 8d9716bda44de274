-- One owner is a hash of counters and a sorted set of the leases of its open holds. Of a meter (unit and window):
--   s:METER         when its period began        t:METER  settled and open
--   o:METER         open                         f:METER  when the oldest period of a rolling window began
--   b:START:METER   taken in one period of a rolling window
-- g:UNIT/PER is a rate's level and since when, u:KIND what was settled for reports, h:ID what a hold has taken.
-- The usage logs of a proxy's processes need one hash more, which is in the same slot:
--   n  how many charges there were   id  what the ledger is called   until  until when charges are kept for a log
--   c:HOLD  a charge that no log has a line of so far
-- Every number is whole and below 2^53, where doubles are exact.
local MOST = 9007199254740991
-- How long, in milliseconds, a charge is left to the process that had it made, or that was given it to tell of.
local TOLD_WITHIN = 5000
local LOG = string.match(KEYS[1], '^{[^}]*}') .. ':log'

local function text(number)
  return string.format('%.0f', number)
end

local function capped(number)
  return math.max(0, math.min(MOST, number))
end

local function is_rolling(meter)
  return string.find(meter, '|rolling/', 1, true) ~= nil
end

local function get(owner, field)
  return tonumber(redis.call('HGET', owner, field) or 0)
end

-- Ends what a hold has taken of a meter in the period that began at start. What is nil stays as it was taken.
local function end_part(owner, meter, start, held, charged)
  local rolling = is_rolling(meter)
  if not rolling and start ~= get(owner, 's:' .. meter) then
    return
  end
  redis.call('HSET', owner, 'o:' .. meter, text(capped(get(owner, 'o:' .. meter) - held)))
  if charged == nil then
    return
  end
  local before, after = held, charged
  if rolling then
    local field = 'b:' .. text(start) .. ':' .. meter
    before = tonumber(redis.call('HGET', owner, field) or -1)
    if before < 0 then
      return
    end
    after = capped(capped(before - held) + charged)
    redis.call('HSET', owner, field, text(after))
  end
  redis.call('HSET', owner, 't:' .. meter, text(capped(get(owner, 't:' .. meter) - before + after)))
end

-- What is left of a rate's level. A clock that was set back does not stop it from draining.
local function level_now(owner, field, limit)
  local known = redis.call('HGET', owner, field)
  if not known then
    return 0
  end
  local level, at = string.match(known, '^(%d+) (%d+)$')
  level, at = tonumber(level), tonumber(at)
  if at > now + 1000 then
    redis.call('HSET', owner, field, text(level) .. ' ' .. text(now))
  end
  return math.max(0, level - math.max(0, now - at) * limit)
end

-- Numbers a charge; while somebody keeps a log, it stays here until that has a line of it. Gives what stays.
-- spent: three amounts, tokens of four kinds, and what is reported as cost.
local function note(name, how, spent, parts)
  local number = redis.call('HINCRBY', LOG, 'n', 1)
  if tonumber(redis.call('HGET', LOG, 'until') or 0) <= now then
    return nil
  end
  local texts = {}
  for index = 1, 8 do
    texts[index] = text(spent[index] or 0)
  end
  -- Nobody in particular tells of what has expired.
  local left_until = how == 'expired' and now or now + TOLD_WITHIN
  local head = text(number) .. ' ' .. text(now) .. ' ' .. text(left_until) .. ' ' .. how .. ' '
  local charge = head .. table.concat(texts, ' ') .. '\n' .. parts
  redis.call('HSET', LOG, 'c:' .. name, charge)
  return charge
end

local function part_text(meter, start, held, charged)
  return 'm ' .. meter .. ' ' .. text(start) .. ' ' .. text(held) .. ' ' .. text(charged) .. '\n'
end

-- Ends holds that nobody has renewed: what they took stays taken.
local function reap(owner, leases)
  local expired = redis.call('ZRANGEBYSCORE', leases, '-inf', text(now), 'LIMIT', 0, 100)
  for _, id in ipairs(expired) do
    local parts = redis.call('HGET', owner, 'h:' .. id)
    local charged = 'o ' .. owner .. '\n'
    for meter, start, held in string.gmatch(parts or '', 'm (%S+) (%d+) (%d+)\n') do
      start, held = tonumber(start), tonumber(held)
      end_part(owner, meter, start, held, nil)
      charged = charged .. part_text(meter, start, held, held)
    end
    if parts then
      -- Other owners of the hold may have it for longer.
      note(id .. '@' .. owner, 'expired', {}, charged)
    end
    redis.call('HDEL', owner, 'h:' .. id)
    redis.call('ZREM', leases, id)
  end
end
