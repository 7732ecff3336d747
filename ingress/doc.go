// Package ingress is how the outside reaches services: hostnames and paths,
// the Table made of them, and the process that serves it. That process is one
// of its own ("slipway ingress"): it goes on while the server is down or being
// replaced, keeps the last table it was given, and answers the DNS questions
// of the containers.
//
//	Ingresses (rows)  --All-->  Build (pure)  --Table-->  Process.Set
//	                                                          |  unix socket, JSON lines
//	  serve                                                   v
//	  ------------------------------------------------------------------
//	  slipway ingress                 table in an atomic pointer, table.json
//	                                  proxy (http, https, h2, h2c, WebSocket)
//	                                  certificates of the private CA
//	                                  DNS on the gateway of each network
//
// The life of an ingress process, and how one is followed by the next:
//
//	starting --bound--> serving --"took"--> draining --idle or time over--> gone
//	                       |                    ^
//	                       +-----"drain"--------+
//	                       +-----"stop"---------------------------------> gone
//
// A successor is started beside the one that serves, asks it for its sockets
// ("handover"; they come as SCM_RIGHTS), serves them too, puts its own control
// socket in place and then says "took". Only then the older one stops to
// accept: at every moment somebody accepts, so no connection is refused. A
// successor that dies before that changes nothing.
package ingress
