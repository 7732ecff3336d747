// Command child monitors one container. It starts it through runc, writes its
// output to a log, takes its exit status and keeps it until the server has seen
// it. It outlives the server: all it needs comes at its start through an
// inherited socket, and any later server finds it by a socket in the run
// directory. Package wire has the protocol and the names of the files.
//
//	new -> starting -> running -> (reaped) -> exited, and gone after delete
//
// No dependency but the standard library and golang.org/x/sys: it is there
// once for every container, so every page counts.
package main
