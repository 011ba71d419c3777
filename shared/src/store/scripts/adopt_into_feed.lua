-- Groups with certificates that were published without telling the frontends. KEYS: feed. ARGV: ids.
for _, id in ipairs(ARGV) do
  local known = redis.call('HMGET', group_key(id), 'seq', 'cert:ecdsa', 'cert:rsa')
  if not known[1] and (known[2] or known[3]) then changed(id) end
end
return #ARGV
