// The echo server of ws on Node.js, in as many processes as asked:
//   node server.js --host 127.0.0.1 --port 9000 --shards 2
//
// Several processes are workers of Node's cluster module with SCHED_NONE: they accept from one shared socket, as the
// shards of the other servers do. Round-robin, which is Node's default, would have the primary accept every connection
// and pass it on, so that one process does what is to be measured of all of them. (A socket of each worker's own, with
// SO_REUSEPORT, needs Node 23.)
//
// Nothing else is set: no compression, which is ws's default; a backlog of 511, which is Node's; no keepalive pings.

"use strict";

const cluster = require("node:cluster");
const { parseArgs } = require("node:util");
const { WebSocketServer } = require("ws");

const { values } = parseArgs({
  options: {
    host: { type: "string", default: "127.0.0.1" },
    port: { type: "string", default: "0" },
    shards: { type: "string", default: "1" },
  },
});
const shards = Number(values.shards);

if (shards > 1 && cluster.isPrimary) {
  cluster.schedulingPolicy = cluster.SCHED_NONE;
  // Workers end with their primary; it ends when the last of them has.
  cluster.on("exit", (worker) => {
    console.error(`worker ${worker.process.pid} has ended`);
    process.exitCode = 1;
  });
  for (let n = 0; n < shards; n++) cluster.fork();
} else {
  const server = new WebSocketServer({ host: values.host, port: Number(values.port) });
  server.on("listening", () => console.log(`ws://${values.host}:${server.address().port}`));
  server.on("error", (error) => {
    console.error(`cannot listen: ${error.message}`);
    process.exit(1);
  });
  server.on("connection", (socket) => {
    socket.on("error", () => {}); // Without it, a peer that errs would end the process; ws closes the connection.
    socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  });
}
