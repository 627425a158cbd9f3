// A minimal Lambda runtime for Node. Lambda's own one, `aws-lambda-ric`, compiles a C++ add-on during installation; this
// one needs no compiler and starts faster.

import http from "node:http";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [host, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(":");
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function call(method, resource, body) {
  return new Promise((resolve, reject) => {
    const request = http.request(
      {
        agent,
        host,
        port,
        method,
        path: `/2018-06-01/runtime/${resource}`,
        headers: body === undefined ? {} : { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) },
      },
      (response) => {
        const chunks = [];
        response.on("data", (chunk) => chunks.push(chunk));
        response.on("end", () => resolve({ headers: response.headers, body: Buffer.concat(chunks).toString("utf8") }));
        response.on("error", reject);
      },
    );
    request.on("error", reject);
    request.end(body);
  });
}

const asJson = (error) =>
  JSON.stringify({ errorType: error?.name, errorMessage: error?.message, trace: error?.stack?.split("\n") });

let handler;
try {
  const [file, name] = process.env._HANDLER.split(".");
  const module = await import(pathToFileURL(path.join(process.env.LAMBDA_TASK_ROOT, `${file}.mjs`)));
  handler = module[name];
} catch (error) {
  await call("POST", "init/error", asJson(error));
  process.exit(1);
}

for (;;) {
  const { headers, body } = await call("GET", "invocation/next");
  const awsRequestId = headers["lambda-runtime-aws-request-id"];
  const deadline = Number(headers["lambda-runtime-deadline-ms"]);
  const context = {
    awsRequestId,
    functionName: process.env.AWS_LAMBDA_FUNCTION_NAME,
    invokedFunctionArn: headers["lambda-runtime-invoked-function-arn"],
    getRemainingTimeInMillis: () => deadline - Date.now(),
  };
  try {
    const answer = await handler(JSON.parse(body), context);
    await call("POST", `invocation/${awsRequestId}/response`, JSON.stringify(answer ?? null));
  } catch (error) {
    await call("POST", `invocation/${awsRequestId}/error`, asJson(error));
  }
}
