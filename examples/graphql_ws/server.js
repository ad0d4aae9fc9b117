// A GraphQL server with subscriptions over WebSocket, as the README of graphql-ws has it: node server.js [PORT]
"use strict";

const { buildSchema } = require("graphql");
const { useServer } = require("graphql-ws/use/ws");
const { WebSocketServer } = require("ws");

const schema = buildSchema("type Query { hello: String }");
const port = Number(process.argv[2] ?? process.env.PORT ?? 8080);

useServer({ schema, roots: { query: { hello: () => "world" } } }, new WebSocketServer({ host: "127.0.0.1", port }));
