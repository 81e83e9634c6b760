// Keeps orders that became paid, by typed rows.
package main

import "PLUGIN_NAME/rowmill"

func init() {
	rowmill.Register(rowmill.Transform{
		Table: func(t *rowmill.Table) rowmill.Interest {
			return t.OnlyIf(t.Is(OrdersSchemaName, OrdersTableName))
		},
		Row: func(r *rowmill.Row) {
			order := OrdersOf(r)
			status, _ := order.Status()
			if status == OrdersStatusNew {
				var id int64 = order.Id()
				customer, _ := order.Customer()
				_, isRated := order.Rating()
				total, _ := order.Total()
				if id != 1 || customer != uint64(7) || isRated || total != "9.50" {
					panic("not the row")
				}
			}
			if r.Before().Has(OrdersColumnStatus) {
				if old, _ := order.Before().Status(); old == status {
					return
				}
			}
			if status == OrdersStatusPaid && r.ChangedTo(OrdersColumnStatus, string(OrdersStatusPaid)) {
				r.Keep()
			}
		},
	})
}

func main() {}
