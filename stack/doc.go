// Package stack is things that stay: stacks of services and volumes, the pure
// decisions about them (Plan, Statuses, Note), and the loop that carries them
// out (Stacks.Run, Stacks.Handle).
//
// A service has a declared definition, which Put and Patch write, and an
// applied one, which Recreate and Pull copy from it. The loop brings what runs
// to the applied one:
//
//	rows --load--> want --+                         +--> engine.Apply
//	                      +--> Note, Plan, Statuses --+
//	engine.Observe -> have +                        +--> rows, events, routes
//
// The states of a service:
//
//	            image there, started          stop
//	creating ------------------------> running -----> stopping ---> stopped
//	   |  ^                             |   ^             ^            |
//	   |  | image missing: waits        |   | runs        |            | start
//	   |  |                        exit |   |             | stop       |
//	   +--+                             v   |             |            |
//	                                  starting -----------+ <----------+
//	                                    |   ^   restart, recreate, pull
//	    5 exits in 2 min, or a replace- |   | runs for 10 s
//	    ment that does not start        v   |
//	                                   error (still tried)
//
//	exit, and the policy says no more:  code 0 -> stopped, else -> error
//
// Every start is an instance of its own, "<service UUID>.<n>". n comes from the
// row of the service and is counted up there before the engine is told, so
// whatever kills the server in between, no number is used for two starts. The
// hash of an instance names the definition it was started with and the epoch of
// the service, which restart, recreate and pull count up: an instance with
// another hash than the wanted one is an older one and is replaced.
//
// A schedule has the images of a stack asked for again: each under a definition
// of its own (updating) beside the declared and the applied one. If it leads to
// another image that becomes both, and the service is recreated; else it is gone.
//
// Names: a service is found by its bare name in its own stack and as
// "<service>.<prefix>" in the whole project. The address of whoever asks tells
// its stack (ingress.View).
package stack
