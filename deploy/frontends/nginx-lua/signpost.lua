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
  kept = 86400,      -- seconds that what is known is served on while the agent does not answer
  patience = 2000,   -- milliseconds that a handshake waits for the agent
}

-- The agent's answer: certificate, chain and key in PEM; '' for a name that it does not have; nil when it did not answer.
local function ask(name, password, port)
  local socket = ngx.socket.tcp()
  socket:settimeout(M.patience)
  if not socket:connect("127.0.0.1", port) then return nil end
  local sent = socket:send("GET /caddy?server_name=" .. ngx.escape_uri(name) .. " HTTP/1.0\r\nHost: agent\r\n"
    .. "Authorization: Bearer " .. password .. "\r\nConnection: close\r\n\r\n")
  local answer = sent and socket:receive("*a")
  socket:close()
  local status, body = string.match(answer or "", "^HTTP/1%.%d (%d%d%d).-\r\n\r\n(.*)$")
  if status == "200" then return body end
  if status == "204" then return "" end
  return nil
end

local function find(name, password, port)
  local known = ngx.shared.signpost
  local pem = known:get("pem:" .. name)
  if pem and known:get("fresh:" .. name) then return pem end
  local answer = ask(name, password, port)
  if answer then
    known:set("fresh:" .. name, true, answer == "" and M.unknown or M.fresh)
    -- Too little memory is no error: it is asked for again.
    known:set("pem:" .. name, answer, answer == "" and M.unknown or M.kept)
    return answer
  end
  return pem
end

function M.serve(password, port)
  local ssl = require "ngx.ssl"
  local name = ssl.server_name()
  -- What is no hostname is asked of nobody.
  if not name or #name > 253 or not string.match(name, "^[%w%-%._]+$") then return ngx.exit(ngx.ERROR) end
  name = string.gsub(string.lower(name), "%.$", "")
  local pem = find(name, password, port)
  if not pem or pem == "" then return ngx.exit(ngx.ERROR) end
  local certificate, key = ssl.parse_pem_cert(pem), ssl.parse_pem_priv_key(pem)
  if not (certificate and key and ssl.clear_certs() and ssl.set_cert(certificate) and ssl.set_priv_key(key)) then
    ngx.log(ngx.ERR, "the certificate for ", name, " can't be used")
    return ngx.exit(ngx.ERROR)
  end
end

return M
