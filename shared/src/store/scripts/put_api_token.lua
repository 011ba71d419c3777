-- Writes a token. KEYS: tokens, when they were used. ARGV: SHA-256, record, name, 'add', 'replace' or 'change'.
-- A name has one token: 'add' refuses a second, 'replace' ends the one before, 'change' needs the one that is there.
-- A record is a line with its MAC, and JSON; one that can't be read has no name.
local function name_of(record)
  local line = string.find(record, '\n', 1, true) or 0
  local is_read, token = pcall(cjson.decode, string.sub(record, line + 1))
  return is_read and type(token) == 'table' and token.name or nil
end
local there, ended = false, {}
local before = redis.call('HGETALL', KEYS[1])
for at = 1, #before, 2 do
  if name_of(before[at + 1]) == ARGV[3] then
    if before[at] == ARGV[1] then
      there = true
    elseif ARGV[4] == 'replace' then
      ended[#ended + 1] = before[at]
    else
      return redis.error_reply('CONFLICT the name has another token')
    end
  end
end
if ARGV[4] == 'change' and not there then return redis.error_reply('CONFLICT the token is gone') end
redis.call('HLEN', KEYS[2])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
for _, token in ipairs(ended) do redis.call('HDEL', KEYS[1], token) end
if #ended > 0 then redis.call('HDEL', KEYS[2], unpack(ended)) end
return 1
