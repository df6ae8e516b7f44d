-- POST, then PATCH of what it made; arguments: path of creation, file with the body, metadata
dofile(debug.getinfo(1, "S").source:sub(2):match("^(.*/)") .. "report.lua")

local creation, body
local made, first, last = {}, 1, 0

function init(arguments)
   body = contents(arguments[2])
   creation = wrk.format("POST", arguments[1], {
      ["Tus-Resumable"] = "1.0.0",
      ["Upload-Length"] = tostring(#body),
      ["Upload-Metadata"] = arguments[3],
   })
end

function request()
   if first > last then
      return creation
   end
   local path = made[first]
   made[first] = nil
   first = first + 1
   return wrk.format("PATCH", path, {
      ["Tus-Resumable"] = "1.0.0",
      ["Upload-Offset"] = "0",
      ["Content-Type"] = "application/offset+octet-stream",
   }, body)
end

function response(status, headers)
   if status == 201 then
      local location = headers["Location"] or headers["location"]
      last = last + 1
      made[last] = location:gsub("^https?://[^/]+", "")
   end
end
