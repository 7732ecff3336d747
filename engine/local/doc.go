// Package local is the engine of this machine: containerd's stores and
// BuildKit's solver in this process, and for every container one small monitor
// (package child) that outlives us and starts it through runc.
//
//	Open: lock -> unpack programs -> adopt -> sweep -> stores -> network -> builder
//
//	one process                                   one for each container
//	+------------------------------------+        +-------+      +-----------+
//	| stores   content, metadata,        | socket | child |----->| container |
//	|          snapshots, leases         |<======>|       | runc |           |
//	| builder  BuildKit on these stores  |        +-------+      +-----------+
//	| network  bridges, pool, nft table  |         log, exit.json
//	+------------------------------------+
//
// What lasts is below Options.Dir, what a reboot may take is below
// /run/slipway-<instance>. The instance is made from the directory's path, and
// every name on the host (bridges, veths, table, cgroups) begins with it, so
// that two servers do not meet.
package local
