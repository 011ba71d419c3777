-- Certificates for an nginx with lua-nginx-module (OpenResty, Debian's libnginx-mod-http-lua), from the agent on this machine:
-- asked for at a name's first handshake, then kept in memory. No handshake ever waits for a CA.
--
--     lua_shared_dict signpost 64m;
--     init_by_lua_block { signpost = dofile("/etc/nginx/signpost/signpost.lua") }
--     server {
--         listen 443 ssl;
--         ssl_certificate /etc/nginx/signpost/none.pem;         # nginx wants one to start with: self-signed, never shown
--         ssl_certificate_key /etc/nginx/signpost/none-key.pem;
--         ssl_certificate_by_lua_block { signpost.serve("PASSWORD", 9631) }
--     }
--
-- PASSWORD is that of `agent.local.secret_file`, 9631 the port of `agent.local.listen`.
local M = {
  fresh = 30,        -- seconds until a renewal is noticed
  unknown = 10,      -- seconds that a name without a certificate is not asked for again
  kept = 86400,      -- seconds that what is known is served on while the agent does not answer, or not with anything good
  patience = 2000,   -- milliseconds that the first handshake of a name waits for the agent; others wait for nothing
}

-- Whether a text is a certificate, with its chain, and a key. Nothing else ever takes the place of what is known.
local function is_good(pem)
  local ssl = require "ngx.ssl"
  return ssl.parse_pem_cert(pem) ~= nil and ssl.parse_pem_priv_key(pem) ~= nil
end

-- The agent's answer: certificate, chain and key in PEM; '' for a name that it does not have; nil when it did not answer, or with
-- something else or a part of it.
local function ask(name, password, port)
  local socket = ngx.socket.tcp()
  socket:settimeout(M.patience)
  if not socket:connect("127.0.0.1", port) then return nil end
  local sent = socket:send("GET /caddy?server_name=" .. ngx.escape_uri(name) .. " HTTP/1.0\r\nHost: agent\r\n"
    .. "Authorization: Bearer " .. password .. "\r\nConnection: close\r\n\r\n")
  local answer = sent and socket:receive("*a")
  socket:close()
  local status, head, body = string.match(answer or "", "^HTTP/1%.%d (%d%d%d)(.-)\r\n\r\n(.*)$")
  if status == "204" then return "" end
  if status ~= "200" then return nil end
  local length = tonumber(string.match(string.lower(head), "\r\ncontent%-length:%s*(%d+)"))
  if (length and length ~= #body) or not is_good(body) then
    ngx.log(ngx.ERR, "the agent's answer for ", name, " is no certificate with its key: what is known stays")
    return nil
  end
  return body
end

-- Asks, and remembers what was answered.
local function refresh(name, password, port)
  local known = ngx.shared.signpost
  local answer = ask(name, password, port)
  if answer then
    -- Too little memory is no error: it is asked for again.
    known:set("fresh:" .. name, true, answer == "" and M.unknown or M.fresh)
    local before = known:get("pem:" .. name)
    -- Only what a client was shown is worth going back to.
    if before and before ~= "" and before ~= answer and known:get("shown:" .. name) == ngx.crc32_long(before) then
      known:set("last:" .. name, before, M.kept)
    end
    known:set("pem:" .. name, answer, answer == "" and M.unknown or M.kept)
  end
  known:delete("asking:" .. name)
  return answer
end

local function find(name, password, port)
  local known = ngx.shared.signpost
  local pem = known:get("pem:" .. name)
  if not pem then return refresh(name, password, port) end
  -- What is there is served; behind it one asks for something newer, for all workers and handshakes.
  if not known:get("fresh:" .. name) and known:add("asking:" .. name, true, M.patience / 1000 + 1) then
    local started = ngx.timer.at(0, function(premature)
      if not premature then refresh(name, password, port) end
    end)
    if not started then known:delete("asking:" .. name) end
  end
  return pem
end

-- Whether it is shown to the client: a key that is another certificate's is noticed here.
local function show(pem)
  local ssl = require "ngx.ssl"
  local certificate, key = ssl.parse_pem_cert(pem), ssl.parse_pem_priv_key(pem)
  return certificate and key and ssl.clear_certs() and ssl.set_cert(certificate) and ssl.set_priv_key(key)
end

function M.serve(password, port)
  local name = require("ngx.ssl").server_name()
  -- What is no hostname is asked of nobody.
  if not name or #name > 253 or not string.match(name, "^[%w%-%._]+$") then return ngx.exit(ngx.ERROR) end
  name = string.gsub(string.lower(name), "%.$", "")
  local pem = find(name, password, port)
  if not pem or pem == "" then return ngx.exit(ngx.ERROR) end
  local known, sum = ngx.shared.signpost, ngx.crc32_long(pem)
  if show(pem) then
    if known:get("shown:" .. name) ~= sum then known:set("shown:" .. name, sum, M.kept) end
    return
  end
  ngx.log(ngx.ERR, "the certificate for ", name, " can't be used")
  known:delete("fresh:" .. name)
  local last = known:get("last:" .. name)
  if not (last and show(last)) then return ngx.exit(ngx.ERROR) end
end

return M
