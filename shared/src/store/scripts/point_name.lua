-- A name leads to a group from now on, unless another site has been given it meanwhile.
-- KEYS: name. ARGV: group, its site. The value is `GROUP?SITE`: who serves it, and who is to serve it where that differs.
local function site_of(id) return string.sub(id, 1, 20) end
local serving, wanting = string.match(redis.call('GET', KEYS[1]) or '', '^([^?]*)%??(.*)$')
if wanting ~= '' and wanting ~= ARGV[2] then return 0 end
if wanting == '' and serving ~= '' and site_of(serving) ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
