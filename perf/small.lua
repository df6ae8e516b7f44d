-- wrk: creation-with-upload of 4 KiB
wrk.method = "POST"
wrk.body = string.rep("x", 4096)
wrk.headers["Tus-Resumable"] = "1.0.0"
wrk.headers["Upload-Length"] = "4096"
wrk.headers["Content-Type"] = "application/offset+octet-stream"
