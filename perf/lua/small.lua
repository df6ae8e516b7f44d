-- creation-with-upload; arguments: path of creation, file with the body, metadata
dofile(debug.getinfo(1, "S").source:sub(2):match("^(.*/)") .. "report.lua")

local text

function init(arguments)
   local body = contents(arguments[2])
   text = wrk.format("POST", arguments[1], {
      ["Tus-Resumable"] = "1.0.0",
      ["Upload-Length"] = tostring(#body),
      ["Upload-Metadata"] = arguments[3],
      ["Content-Type"] = "application/offset+octet-stream",
   }, body)
end

function request()
   return text
end
