// Package e2e drives the real program: a server of its own for each test, real
// git, real containers, kill -9, and a look at what is left on the host.
//
//	server_test.go  a server on a data directory: start, kill, stop
//	leaks_test.go   what of it is on the host
//	world_test.go   what clients do: projects, pipelines, pushes, stacks
//	prober_test.go  asks a hosted service all the time
//	crash_test.go   a kill -9 at every place that crash.At marks
//	story_test.go   what goes on meanwhile: a push is run, services are hosted
//	outside_test.go and the other half: builds, images and stacks of elsewhere
//	kills_test.go   a kill -9 of what runs beside the server
//	upload_test.go  a kill -9 in the middle of an upload
//	start_test.go   what a server cannot start with, and a first start that is killed
//	kit_test.go       an image to run, registries of others, one action at a time
//	dialects_test.go  one build through three dialects
//	node_test.go      the vendor's client for Node.js, from npm
//	fields_test.go    each field of an action, in a container or a build
//	registry_test.go  registries of others, and our own with a standard client
//	refuse_test.go    what must not be taken leaves nothing
//	isolation_test.go what actions and builds must not reach, and secrets
//
// The places of the crash test are found by running its scenarios once. A new
// crash.At is tested by being reached; one that is not reached is an error until
// the test says who kills there.
package e2e
