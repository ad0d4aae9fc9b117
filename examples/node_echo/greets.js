// A server as the README of ws has it: it says something to whoever connects, logs what it hears, and echoes nothing.
// node greets.js [PORT]
"use strict";

const { WebSocketServer } = require("ws");

const port = Number(process.argv[2] ?? process.env.PORT ?? 8080);
const server = new WebSocketServer({ host: "127.0.0.1", port });

server.on("connection", (socket) => {
  socket.on("error", console.error);
  socket.on("message", (data) => console.log("received: %s", data));
  socket.send("something");
});
