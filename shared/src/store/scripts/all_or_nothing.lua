-- Before every script that writes more than one key. What such a script reads is read first; what it writes is collected, and
-- written at its end by `commit`: to each key once, what is added before what is taken away. So nothing can stop it half way,
-- wherever a record is damaged or a Cluster's slot is on the move.
-- Every key is declared by the caller, or Redis can't say that one has moved. A script that finds that it needs further ones
-- writes nothing and answers {'KEYS', those keys}: it is called again with them (`store/declared.rs`). What it has read of them so far
-- only serves to learn which they are.
local declared, lacking = {}, {}
for _, key in ipairs(KEYS) do declared[key] = true end

local function touch(key)
  if declared[key] == nil then
    declared[key] = false
    lacking[#lacking + 1] = key
  end
  return declared[key]
end

local function read(command, key, ...)
  if touch(key) then return redis.call(command, key, ...) end
  local answer = redis.pcall(command, key, ...)
  if type(answer) == 'table' and answer.err then return nil end
  return answer
end

-- What is written, by key: fields, members and their scores, whole values. `false` takes away.
local hashes, sets, values, expiries, entries = {}, {}, {}, {}, {}

local function put(all, key, name, value)
  touch(key)
  local written = all[key]
  if not written then
    written = {}
    all[key] = written
  end
  written[name] = value
end

local function field(key, name)
  local written = hashes[key]
  if written and written[name] ~= nil then return written[name] end
  return read('HGET', key, name)
end

local function set(key, name, value) put(hashes, key, name, value) end
local function unset(key, name) put(hashes, key, name, false) end

local function score(key, member)
  local written = sets[key]
  if written and written[member] ~= nil then return written[member] end
  return read('ZSCORE', key, member)
end

local function add(key, member, new) put(sets, key, member, new) end
local function take(key, member)
  if score(key, member) then put(sets, key, member, false) end
end

-- How many members there will be.
local function card(key)
  local count = read('ZCARD', key) or 0
  for member, new in pairs(sets[key] or {}) do
    local old = read('ZSCORE', key, member)
    if new and not old then count = count + 1 elseif old and not new then count = count - 1 end
  end
  return count
end

-- The lowest members that there will be: {{member, score}, ...}.
local function lowest(key, most)
  local written, changes = sets[key] or {}, 0
  for _ in pairs(written) do changes = changes + 1 end
  local found = {}
  local stored = read('ZRANGE', key, 0, most + changes - 1, 'WITHSCORES') or {}
  for i = 1, #stored, 2 do
    if written[stored[i]] == nil then found[#found + 1] = {stored[i], tonumber(stored[i + 1])} end
  end
  if changes > 0 then
    for member, new in pairs(written) do
      if new then found[#found + 1] = {member, tonumber(new)} end
    end
    table.sort(found, function(one, other)
      if one[2] == other[2] then return one[1] < other[1] end
      return one[2] < other[2]
    end)
  end
  for i = #found, most + 1, -1 do found[i] = nil end
  return found
end

local function value(key)
  if values[key] ~= nil then return values[key] end
  return read('GET', key)
end

local function write(key, new)
  touch(key)
  values[key] = new
end

local function drop(key) write(key, false) end

local function expire_at(key, ms)
  touch(key)
  expiries[key] = ms
end

local function append(key, entry)
  touch(key)
  entries[#entries + 1] = {key, entry}
end

local function run(command, key, words)
  -- More than that is not unpacked at once.
  for i = 1, #words, 2000 do
    redis.call(command, key, unpack(words, i, math.min(i + 1999, #words)))
  end
end

-- Answers nothing where all was written.
local function commit()
  if #lacking > 0 then
    table.insert(lacking, 1, 'KEYS')
    return lacking
  end
  -- What is not of its kind is found before anything is written.
  for key in pairs(hashes) do redis.call('HGET', key, '') end
  for key in pairs(sets) do redis.call('ZCARD', key) end
  for _, entry in ipairs(entries) do redis.call('XLEN', entry[1]) end
  for _, entry in ipairs(entries) do redis.call('XADD', entry[1], 'MAXLEN', '~', 20000, '*', 'e', entry[2]) end
  for key, written in pairs(hashes) do
    local kept, gone = {}, {}
    for name, new in pairs(written) do
      if new then
        kept[#kept + 1] = name
        kept[#kept + 1] = new
      else
        gone[#gone + 1] = name
      end
    end
    run('HSET', key, kept)
    if expiries[key] then
      redis.call('PEXPIREAT', key, expiries[key])
      expiries[key] = nil
    end
    run('HDEL', key, gone)
  end
  for key, written in pairs(sets) do
    local kept, gone = {}, {}
    for member, new in pairs(written) do
      if new then
        kept[#kept + 1] = new
        kept[#kept + 1] = member
      else
        gone[#gone + 1] = member
      end
    end
    run('ZADD', key, kept)
    if expiries[key] then
      redis.call('PEXPIREAT', key, expiries[key])
      expiries[key] = nil
    end
    run('ZREM', key, gone)
  end
  for key, new in pairs(values) do
    if new then redis.call('SET', key, new) else redis.call('UNLINK', key) end
  end
  for key, ms in pairs(expiries) do redis.call('PEXPIREAT', key, ms) end
end
