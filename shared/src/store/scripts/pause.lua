-- Pauses that a CA has asked for. KEYS: pauses. ARGV: 'ask' or 'set', place, how often it is tried (ms), for 'set'
-- the length (ms). 'ask' answers 0: go, -1: this one tries, else how long to wait (ms); 'set' answers 1
-- where there was no pause.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local every = tonumber(ARGV[3])
local text = redis.call('HGET', KEYS[1], ARGV[2])
-- One that can't be read is none.
local is_read, pause = pcall(cjson.decode, text or '')
if not is_read or type(pause) ~= 'table' or not (tonumber(pause.until_ms) and tonumber(pause.since_ms) and tonumber(pause.try_ms)) then
  pause = nil
end
if pause and pause.until_ms <= now then pause = nil end
local function keep()
  redis.call('HSET', KEYS[1], ARGV[2], string.format('{"since_ms":%.0f,"until_ms":%.0f,"try_ms":%.0f}', pause.since_ms, pause.until_ms, pause.try_ms))
end
if ARGV[1] == 'set' then
  local is_new = not pause
  pause = { since_ms = pause and pause.since_ms or now, until_ms = now + tonumber(ARGV[4]), try_ms = now + every }
  keep()
  local left = redis.call('PTTL', KEYS[1])
  redis.call('PEXPIRE', KEYS[1], math.max(left, tonumber(ARGV[4]) + 60000))
  return is_new and 1 or 0
end
if not pause then
  if text then redis.call('HDEL', KEYS[1], ARGV[2]) end
  return 0
end
if pause.try_ms > now then return math.max(1, math.min(pause.try_ms, pause.until_ms) - now) end
pause.try_ms = now + every
keep()
return -1
