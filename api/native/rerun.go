package native

import (
	"encoding/json"
	"net/http"
	"strconv"

	"slipway/access"
	"slipway/api"
	"slipway/pipeline"
	"slipway/project"
)

// anAction is the number of an action, or the id of an action execution.
type anAction string

// UnmarshalJSON takes a number or a text.
func (a *anAction) UnmarshalJSON(b []byte) error {
	var n int64
	if err := json.Unmarshal(b, &n); err == nil {
		*a = anAction(strconv.FormatInt(n, 10))
		return nil
	}
	return json.Unmarshal(b, (*string)(a))
}

// rerun is what an execution is begun with at one of its actions.
type rerun struct {
	From      anAction        `json:"from"`
	Commands  api.Opt[string] `json:"inline_commands"`
	Comment   api.Opt[string] `json:"comment"`
	Variables []struct {
		Key       string `json:"key"`
		Value     string `json:"value"`
		Encrypted bool   `json:"encrypted"`
	} `json:"variables"`
}

func (b rerun) input() (in pipeline.RerunInput, err error) {
	var inv project.Invalid
	in.From = string(b.From)
	for _, o := range []struct {
		name string
		opt  api.Opt[string]
		to   **string
	}{{"inline_commands", b.Commands, &in.Commands}, {"comment", b.Comment, &in.Comment}} {
		if o.opt.Null {
			inv.Add(o.name, "type", "must be a text")
		} else if o.opt.Set {
			*o.to = &o.opt.V
		}
	}
	for _, v := range b.Variables {
		in.Variables = append(in.Variables, pipeline.Variable{Key: v.Key, Value: v.Value, Encrypted: v.Encrypted})
	}
	return in, inv.Err()
}

// rerun begins an execution with an action of another one.
func (h *Handlers) rerun(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	x, err := h.execution(r, by)
	if err != nil {
		return err
	}
	var b rerun
	if err := api.Decode(w, r, &b); err != nil {
		return err
	}
	in, err := b.input()
	if err != nil {
		return err
	}
	in.Key = r.Header.Get("Idempotency-Key")
	n, err := h.Reruns.Rerun(r.Context(), by, x.ID, in)
	if err != nil {
		return err
	}
	return h.tell(w, r, by, http.StatusCreated, n.ID)
}
