-- Where sealed keys of some sites are, as of one moment. KEYS: for each site, the site and the orders of its slots. ARGV: how many
-- keys belong to a site; '1' to take over leases that have ended, so that who slept through the end of theirs can write nothing any more;
-- then the fields of a site that name certificates.
-- Answers for each site: remaining ms of its lease or 0, the orders or '', the certificates or ''.
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local answer = {}
for i = 1, #KEYS, ARGV[1] do
  local held = redis.call('HMGET', KEYS[i], 'lease', 'lease_until')
  local remaining = 0
  if held[1] then
    remaining = math.max(tonumber(held[2]) - ms, 0)
    if remaining == 0 and ARGV[2] == '1' then
      redis.call('HDEL', KEYS[i], 'lease', 'lease_owner', 'lease_until')
    end
  end
  local found = {remaining}
  for k = i + 1, i + ARGV[1] - 1 do found[#found + 1] = redis.call('GET', KEYS[k]) or '' end
  for f = 3, #ARGV do found[#found + 1] = redis.call('HGET', KEYS[i], ARGV[f]) or '' end
  answer[#answer + 1] = found
end
return answer
