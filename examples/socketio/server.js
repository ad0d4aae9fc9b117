// A Socket.IO server that echoes the event "message": node server.js [PORT]
"use strict";

const { Server } = require("socket.io");

const port = Number(process.argv[2] ?? process.env.PORT ?? 8080);
const server = new Server(port, { transports: ["websocket"] });

server.on("connection", (socket) => {
  socket.on("message", (text) => socket.emit("message", text));
});
