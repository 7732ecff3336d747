package mittwald

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"slipway/access"
	"slipway/api"
	"slipway/stack"
)

type volumeBody struct {
	ID                       string   `json:"id"`
	StackID                  string   `json:"stackId"`
	Name                     string   `json:"name"`
	Orphaned                 bool     `json:"orphaned"`
	LinkedServices           []string `json:"linkedServices,omitempty"`
	StorageUsageInBytes      int64    `json:"storageUsageInBytes"`
	StorageUsageInBytesSetAt any      `json:"storageUsageInBytesSetAt"`
}

// fromVolume: orphaned is true for a volume that is kept and not declared. The
// reference describes it the other way round; the clients print it like this.
func fromVolume(v stack.Volume) volumeBody {
	out := volumeBody{
		ID: string(v.ID), StackID: string(v.Stack), Name: v.Name, Orphaned: v.Orphaned,
		StorageUsageInBytes: v.Usage, StorageUsageInBytesSetAt: api.Time(v.UsageSet),
	}
	for _, s := range v.Services {
		out.LinkedServices = append(out.LinkedServices, string(s))
	}
	return out
}

func (d *dialect) listVolumes(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	q := &query{r: r}
	v := r.URL.Query()
	sort := q.oneOf("sortOrder", "", "nameAsc", "nameDesc", "storageAsc", "storageDesc")
	all, err := d.stacks(r, by)
	if err != nil {
		return err
	}
	list := []volumeBody{}
	for _, st := range all {
		if r.PathValue("stackId") == "" && v.Get("stackId") != "" && v.Get("stackId") != string(st.ID) {
			continue
		}
		for _, vol := range st.Volumes {
			if finds(v.Get("searchTerm"), vol.Name) {
				list = append(list, fromVolume(vol))
			}
		}
	}
	switch {
	case strings.HasPrefix(sort, "name"):
		slices.SortStableFunc(list, func(a, b volumeBody) int { return strings.Compare(a.Name, b.Name) })
	case strings.HasPrefix(sort, "storage"):
		slices.SortStableFunc(list, func(a, b volumeBody) int { return cmp.Compare(a.StorageUsageInBytes, b.StorageUsageInBytes) })
	}
	if strings.HasSuffix(sort, "Desc") {
		slices.Reverse(list)
	}
	return page(w, q, 1000, list)
}

func (d *dialect) getVolume(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	v, err := d.Stacks.Volume(r.Context(), by, stackID(r), stack.VolumeID(r.PathValue("volumeId")))
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, fromVolume(v))
}

func (d *dialect) deleteVolume(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if err := d.Stacks.DeleteVolume(r.Context(), by, stackID(r), stack.VolumeID(r.PathValue("volumeId"))); err != nil {
		return err
	}
	return nothing(w)
}
