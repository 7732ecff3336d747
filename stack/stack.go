// Package stack is things that stay: stacks of services and volumes, the pure
// Plan that tells what is to be changed, and the Reconciler that does it.
package stack

// ID is the UUID of a stack.
type ID string

// ServiceID is the UUID of a service.
type ServiceID string

// VolumeID is the UUID of a volume.
type VolumeID string

// Status is what a service is.
type Status string

// States of a service.
const (
	Creating Status = "creating"
	Starting Status = "starting"
	Running  Status = "running"
	Stopping Status = "stopping"
	Stopped  Status = "stopped"
	Error    Status = "error"
)

// StatusChange is the data of event.ServiceChanged.
type StatusChange struct {
	Service ServiceID `json:"service"`
	Stack   ID        `json:"stack"`
	From    Status    `json:"from"`
	To      Status    `json:"to"`
	Message string    `json:"message,omitempty"`
}
