package mittwald

import (
	"reflect"

	"slipway/project"
)

// checkIsolation refuses every key that weakens the isolation of a container,
// unless its value asks for nothing.
func (in serviceRequest) checkIsolation(bad *project.Invalid, at string) {
	v := reflect.ValueOf(in)
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Tag.Get("isolation") == "" {
			continue
		}
		switch compact(v.Field(i).Bytes()) {
		case "", "null", "false", `""`, "[]", "{}":
		default:
			bad.Add(at+"."+f.Tag.Get("json"), "unsupported", "would weaken the isolation of the container")
		}
	}
}
