// Makes a message of each order that became paid, in a group for each customer; drops the rows.
package main

import "PLUGIN_NAME/rowmill"

var (
	becamePaid = rowmill.NewCondition("changed_to(status, 'paid')")
	orderPaid  = rowmill.NewRecipe(`{
		"body": {"event": "order_paid", "order": "{id}", "customer": "{customer}", "total": "{total}"},
		"group": "customer-{customer}",
		"deduplication_id": "paid-{id}",
		"attributes": {"event": "order_paid"}
	}`)
)

func init() {
	rowmill.Register(rowmill.Transform{
		Sinks: []string{"order-management"},
		Table: func(t *rowmill.Table) rowmill.Interest {
			t.Want("id", "customer", "status", "total")
			return t.OnlyIf(t.Is("shop", "orders"))
		},
		Row: func(r *rowmill.Row) {
			if becamePaid.Holds(r) {
				r.WriteTo("order-management", orderPaid)
			}
		},
	})
}

func main() {}
