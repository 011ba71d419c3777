-- Groups with certificates that were published without telling the frontends. KEYS: feed, the groups. ARGV: ids.
for _, id in ipairs(ARGV) do
  local key = group_key(id)
  if not field(key, 'seq') and (field(key, 'cert:ecdsa') or field(key, 'cert:rsa')) then changed(id) end
end
return commit() or #ARGV
