// Uploads a file and prints the upload's URL:
//   node upload.mjs ENDPOINT FILE OPTIONS
// OPTIONS is JSON: tus-js-client's options; "urlStorage" is the path of a file in which the
// client remembers uploads, and one that it finds there is resumed; "stream" hides from the
// client that it reads a file.
import { createReadStream } from 'node:fs'
import { PassThrough } from 'node:stream'
import { FileUrlStorage, Upload } from 'tus-js-client'

const [endpoint, path, json] = process.argv.slice(2)
const options = JSON.parse(json)
if (options.urlStorage) options.urlStorage = new FileUrlStorage(options.urlStorage)

const file = createReadStream(path)
const upload = new Upload(options.stream ? file.pipe(new PassThrough()) : file, {
  ...options,
  endpoint,
  onError(error) {
    console.error(String(error))
    process.exit(1)
  },
  onSuccess() {
    console.log(upload.url)
  },
})
const previous = await upload.findPreviousUploads()
if (previous.length > 0) upload.resumeFromPreviousUpload(previous[0])
upload.start()
